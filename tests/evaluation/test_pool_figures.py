"""Quality of pseudo-labels against the pool's truth, by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pool_world import labelled_row, write_shard
from raylabel.calibration import ImagePredictions, match_set
from raylabel.config import CalibrationConfig, SelectionConfig
from raylabel.dataset.annotated_set import AnnotatedSet, Category
from raylabel.dataset.image_records import ImageRecord
from raylabel.dataset.pool.truth import TruthMatch
from raylabel.evaluation.pool_quality import measure_pool
from raylabel.files.json_files import commit_json
from raylabel.masks.rle import encode_masks
from raylabel.run.folder import RunFolder
from raylabel.run.labels.shards import committed_shards, labelled_images

SIZE = (16, 16)
HALVES = CalibrationConfig(num_bins=2)
LIMIT = 10**6
FIRST, SECOND, THIRD = (slice(0, 4), slice(0, 4)), (slice(8, 16), slice(8, 16)), (slice(0, 4), slice(8, 14))
"""Places that do not overlap."""


def masks(*places: tuple[slice, slice]) -> np.ndarray:
    found = np.zeros((len(places), *SIZE), bool)
    for mask, place in zip(found, places, strict=True):
        mask[place] = True
    return found


def annotation(category_id: int, place: tuple[slice, slice], *, iscrowd: int = 0) -> dict[str, Any]:
    counts = encode_masks(masks(place))[0]["counts"].decode()
    return {"category_id": category_id, "iscrowd": iscrowd, "segmentation": {"size": list(SIZE), "counts": counts}}


@pytest.fixture
def truth() -> AnnotatedSet:
    """Three objects in three images, and a crowd region of class 1 in the first."""
    objects = {
        "0.png": (annotation(1, FIRST), annotation(2, SECOND, iscrowd=1)),
        "1.png": (annotation(1, FIRST),),
        "2.png": (annotation(2, THIRD),),
        "3.png": (annotation(1, FIRST),),
    }
    return AnnotatedSet.of_records(
        images=tuple(
            ImageRecord(image_id=row, file_name=name, uri="", height=16, width=16) for row, name in enumerate(objects)
        ),
        categories=(Category(category_id=1, name="a"), Category(category_id=2, name="b")),
        annotations=tuple(objects.values()),
        is_federated=False,
    )


def row(image_id: str, places: list[Any], classes: list[int], raw: list[float], calibrated: list[float]) -> Any:
    soft = np.full((len(places), 3), 0.01)
    soft[np.arange(len(places)), classes] = raw
    soft[:, -1] = 1 - soft[:, :-1].sum(axis=1)
    return labelled_row(image_id, image_id, SIZE, soft, calibrated, masks(*places), 0.9)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """In the first image the crowd region, the object and a wrong place are found, in the third a wrong and a right
    one, in the last nothing. The second was not readable. The truth does not know `other.png`."""
    run = RunFolder(str(tmp_path))
    categories = [
        {"category_id": 1, "name": "a", "frequency_group": "r", "num_train_images": 3},
        {"category_id": 2, "name": "b", "frequency_group": "f", "num_train_images": 90},
    ]
    commit_json(run.path("classes.json"), {"categories": categories, "is_federated": False})
    bad = {"image_id": "1.png", "uri": "", "status": "truncated", "height": 0, "width": 0, "instances": []}
    first = row("0.png", [SECOND, FIRST, THIRD], [1, 0, 0], [0.9, 0.6, 0.55], [0.95, 0.7, 0.55])
    write_shard(run, 0, [first, bad, row("2.png", [FIRST, THIRD], [0, 1], [0.7, 0.5], [0.3, 0.6])])
    write_shard(run, 1, [row("3.png", [], [], [], []), row("other.png", [FIRST], [0], [0.9], [0.9])])
    return run


def test_figures_by_hand(run: RunFolder, truth: AnnotatedSet) -> None:
    """Right are 0.6 and 0.5 (calibrated 0.7 and 0.6), wrong are 0.55 and 0.7 (0.55 and 0.3). 0.9 is on the crowd."""
    found = measure_pool(
        run,
        TruthMatch(truth, "truth.json"),
        max_pixels=10**6,
        calibration=HALVES,
        selection=SelectionConfig(min_score=0.5),
    )
    assert found is not None
    assert (found["num_images"], found["num_instances"], found["num_objects"]) == (3, 4, 3)
    # 0.7, 0.55 and 0.6 are kept, and two of them are right.
    assert found["selected"] == {"num": 3, "precision": pytest.approx(2 / 3), "recall": pytest.approx(2 / 3)}
    raw, calibrated = found["raw"], found["calibrated"]
    assert raw["nll"] == pytest.approx(-np.log([0.6, 0.45, 0.3, 0.5]).mean(), abs=1e-6)
    assert calibrated["nll"] == pytest.approx(-np.log([0.7, 0.45, 0.7, 0.6]).mean(), abs=1e-6)
    # Two bins. Raw: |0.6 + 0.55 + 0.7 - 1| above, |0.5 - 1| below. Calibrated: |0.7 + 0.55 + 0.6 - 2| and 0.3.
    assert raw["ece"] == pytest.approx((0.85 + 0.5) / 4, abs=1e-6)
    assert calibrated["ece"] == pytest.approx((0.15 + 0.3) / 4, abs=1e-6)
    # Class a: (0.85 / 3, and (|0.7 + 0.55 - 1| + 0.3) / 3); class b: 0.5 and 0.4.
    assert raw["ccece_by_group"] == pytest.approx({"all": (0.85 / 3 + 0.5) / 2, "r": 0.85 / 3, "f": 0.5}, abs=1e-6)
    assert calibrated["ccece"] == pytest.approx((0.55 / 3 + 0.4) / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("calibration", "selection", "num", "precision", "recall"),
    [
        ({}, {"min_score": 0.65}, 1, 1, 1 / 3),
        ({}, {"min_score": 0.65, "min_score_by_group": {"f": 0.1}}, 2, 1, 2 / 3),
        ({}, {"min_score": 0.2, "max_per_image": 1}, 1, 1, 1 / 3),
        ({}, {"min_score": 0.2, "min_area": 20}, 2, 1 / 2, 1 / 3),
        ({}, {"min_mask_quality": 0.95}, 0, 0, 0),
        ({"iou_threshold": 1.0}, {}, 3, 2 / 3, 2 / 3),
    ],
)
def test_the_selection_and_the_threshold_count(
    run: RunFolder,
    truth: AnnotatedSet,
    calibration: dict[str, float],
    selection: dict[str, Any],
    num: int,
    precision: float,
    recall: float,
) -> None:
    """The areas are 16 (0.7 and 0.3) and 24 (0.55 and 0.6). Crowd regions count for no image's largest number."""
    found = measure_pool(
        run,
        TruthMatch(truth, "truth.json"),
        max_pixels=10**6,
        calibration=CalibrationConfig(**calibration),
        selection=SelectionConfig(**selection),
    )
    assert found is not None
    assert found["selected"] == {"num": num, "precision": pytest.approx(precision), "recall": pytest.approx(recall)}


def test_without_truth_or_detection(run: RunFolder, truth: AnnotatedSet, tmp_path: Path) -> None:
    assert measure_pool(run, None, calibration=HALVES, max_pixels=LIMIT, selection=SelectionConfig()) is None
    nothing = truth.subset([3])
    assert measure_pool(
        run, TruthMatch(nothing, "truth.json"), calibration=HALVES, max_pixels=LIMIT, selection=SelectionConfig()
    ) == {
        "num_images": 1,
        "num_instances": 0,
        "num_without_truth": 4,
        "num_truth_not_in_pool": 0,
        "num_other_size": 0,
        "num_other_orientation": 0,
    }


def test_figures_of_a_federated_pool_are_weighed(run: RunFolder, truth: AnnotatedSet) -> None:
    """Class a is known to be absent from the third image. Nobody looked for it in ten further images.

    One of these ten is labelled. The others are not of this pool, so they do not count.
    """
    images = [replace(one, negative_classes=frozenset([0] if row == 2 else [])) for row, one in enumerate(truth.images)]
    unseen = [replace(images[3], image_id=row, file_name=f"{row}.jpg") for row in range(10, 19)]
    unseen.append(replace(images[3], image_id=19, file_name="other.png"))
    federated = AnnotatedSet.of_records(
        categories=truth.categories,
        images=(*images, *unseen),
        annotations=(*truth.annotations, *[()] * 10),
        is_federated=True,
    )
    found = measure_pool(
        run, TruthMatch(federated, "truth.json"), calibration=HALVES, max_pixels=LIMIT, selection=SelectionConfig()
    )
    assert found is not None
    labelled = {
        federated_row: image.instances
        for uri in committed_shards(run).values()
        for image in labelled_images(uri, 2)
        for federated_row, one in enumerate(federated.images)
        if image.status == "ok" and one.file_name == image.image_id
    }
    predictions = {row: ImagePredictions(one.class_indices, one.raw_scores, one.masks) for row, one in labelled.items()}
    rows = sorted(predictions)
    of_pool = {place: predictions[row] for place, row in enumerate(rows)}
    scored = match_set(federated.subset(rows), of_pool, with_context=False).scored()
    assert scored.weights.max() > 1.2
    losses = -np.log(np.where(scored.is_correct, scored.raw_scores, 1 - scored.raw_scores))
    assert found["raw"]["nll"] == pytest.approx(np.average(losses, weights=scored.weights))
    assert found["raw"]["nll"] != pytest.approx(losses.mean(), rel=0.001)
