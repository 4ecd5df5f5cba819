"""Models whose results come shard by shard have the figures of results files, to the last bit."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crowded_scenes import NUM_CLASSES, scenes
from raylabel.dataset.annotations import AnnotatedSet, read_annotations
from raylabel.evaluation import sample
from raylabel.evaluation.checked_results import check_results
from raylabel.evaluation.evaluated_set import MATCHES, EvaluatedSet
from raylabel.evaluation.official import verify_models
from raylabel.evaluation.precision_intervals import jackknife_results
from raylabel.evaluation.streamed_precision import StreamedPrecision
from raylabel.report.console import format_verification

GROUPS = {one: "rcf"[one % 3] for one in range(1, NUM_CLASSES + 1)}


def read(folder: Path, dataset: dict[str, Any]) -> AnnotatedSet:
    """Read annotations of images whose file names are made up."""
    images = [one | {"file_name": f"{one['id']}.png"} for one in dataset["images"]]
    (folder / "truth.json").write_text(json.dumps(dataset | {"images": images}))
    return read_annotations(folder / "truth.json")


def scattered(dataset: dict[str, Any], *, are_texts: bool) -> dict[str, Any]:
    """Change the order of the images, and the order and type of their ids."""
    named = {one["id"]: f"{one['id'] % 7}-{one['id']}" if are_texts else 1000 - one["id"] for one in dataset["images"]}
    images = [one | {"id": named[one["id"]]} for one in sorted(dataset["images"], key=lambda one: one["id"] % 5)]
    annotations = [one | {"image_id": named[one["image_id"]]} for one in dataset["annotations"]]
    return dataset | {"images": images, "annotations": annotations}


def by_image(dataset: dict[str, Any], detections: list[Any]) -> dict[Any, list[Any]]:
    """Return the results of each image, in another order of the images than the file's."""
    found: dict[Any, list[Any]] = {one["id"]: [] for one in dataset["images"]}
    for one in detections:
        found[one["image_id"]].append(one)
    return found


def streamed(
    annotated: AnnotatedSet, of_models: dict[str, dict[Any, list[Any]]], shards: list[list[int]], **options: Any
) -> StreamedPrecision:
    """Evaluate every shard with a set that was opened for it, as workers do."""
    precision = StreamedPrecision(EvaluatedSet(annotated, **options))
    for rows in shards:
        worker = EvaluatedSet(annotated, **options)
        truth = worker.truth(rows)
        for model, results in of_models.items():
            of_shard = {annotated.images[row].image_id: results[annotated.images[row].image_id] for row in rows}
            matches = worker.match(model, truth, of_shard)
            assert matches.schema == MATCHES
            precision.add(matches)
    return precision


@pytest.fixture(scope="module", params=[(False, False), (False, True), (True, False), (True, True)], ids=str)
def world(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A set, its file's content, the results of two models, and their figures as those of results files."""
    is_federated, are_texts = request.param
    dataset, detections = scenes(is_federated=is_federated, num_images=23, num_detections=40)
    assert is_federated or Counter(one["iscrowd"] for one in dataset["annotations"])[1] > 3
    dataset = scattered(dataset, are_texts=are_texts)
    ids = {one: image["id"] for one, image in zip(range(1, 24), sorted_back(dataset), strict=True)}
    detections = [
        {name: value for name, value in one.items() if name != "bbox"} | {"image_id": ids[one["image_id"]]}
        for one in detections
    ]
    files = {"teacher": detections, "student": [one for row, one in enumerate(detections) if row % 3]}
    expected = {name: jackknife_results(dataset, rows, frequency_groups=GROUPS) for name, rows in files.items()}
    annotated = read(tmp_path_factory.mktemp("world"), dataset)
    return annotated, {name: by_image(dataset, rows) for name, rows in files.items()}, expected, (dataset, files)


def sorted_back(dataset: dict[str, Any]) -> list[Any]:
    """Return the images by their first ids."""

    def first(one: dict[str, Any]) -> int:
        return int(one["id"].split("-")[1]) if isinstance(one["id"], str) else 1000 - one["id"]

    return sorted(dataset["images"], key=first)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_shards_of_any_size_in_any_order(world: Any, data: st.DataObject) -> None:
    annotated, of_models, expected, _ = world
    rows = data.draw(st.permutations(range(len(annotated))))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(rows) - 1), max_size=9)))
    shards = [list(rows[start:end]) for start, end in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    has_sample = data.draw(st.booleans())
    found = streamed(annotated, of_models, shards, frequency_groups=GROUPS, has_sample=has_sample).measured()
    assert found == expected
    assert any(value for value in found["teacher"].figures.values())


@pytest.mark.parametrize("limit", [4 * 300, 10**6])
def test_what_is_verified_is_a_sample_if_there_are_many_images(
    world: Any, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotated, of_models, expected, (dataset, files) = world
    monkeypatch.setattr(sample, "MAX_VERIFIED_DETECTIONS", limit)
    shards = [[*range(9)], [*range(9, 23)]]
    precision = streamed(annotated, of_models, shards, frequency_groups=GROUPS, has_sample=True)
    assert precision.measured() == expected
    num_images = 4 if limit < 10**6 else 23
    assert precision.models == ["teacher", "student"]
    samples = {name: precision.sample(name) for name in precision.models}
    assert {(len(one.dataset["images"]), one.of_images) for one in samples.values()} == {(num_images, 23)}
    found = verify_models(precision, {name: one.figures for name, one in expected.items()})
    assert found.agrees
    assert (found.num_images, found.of_images) == (num_images, 23)

    # The figures of the sample are those of a results file of these images alone.
    numbers = sorted(one["id"] for one in samples["student"].dataset["images"])
    ordered = sorted((one["id"] for one in dataset["images"]), key=lambda one: (isinstance(one, str), one))
    chosen = {ordered[number - 1] for number in numbers}
    alone = dataset | {
        "images": [one for one in dataset["images"] if one["id"] in chosen],
        "annotations": [one for one in dataset["annotations"] if one["image_id"] in chosen],
    }
    rows = [one for one in files["student"] if one["image_id"] in chosen]
    of_alone = check_results(alone, rows, frequency_groups=GROUPS).figures()
    assert precision.sample_figures("student") == of_alone
    wrong = {name: one.figures | {"AP": 0.0} for name, one in expected.items()}
    assert verify_models(precision, wrong).agrees == (num_images < 23), "figures of all images are not the sample's"


def test_the_worst_model_is_named(world: Any) -> None:
    annotated, of_models, expected, _ = world
    precision = streamed(annotated, of_models, [[*range(23)]], frequency_groups=GROUPS, has_sample=True)
    figures = {name: one.figures for name, one in expected.items()}
    found = verify_models(precision, figures | {"student": figures["student"] | {"AP75": 0.0}})
    assert (found.model, found.figure, found.agrees) == ("student", "AP75", False)
    assert found.num_figures == 2 * (13 if annotated.is_federated else 12)
    assert "(AP75 of student)" in format_verification(found.to_json())
