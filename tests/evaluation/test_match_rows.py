"""Figures from match rows are those of one evaluation of all images, to the last bit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hotcoco import COCO, COCOeval, LVISeval, LVISResults

import raylabel.predictions.results_by_image
import raylabel.processes
from raylabel.evaluation.average_precision import evaluate_results
from raylabel.evaluation.checked_results import check_results
from raylabel.evaluation.precision_intervals import NUM_PARTS, jackknife_results
from raylabel.evaluation.streamed_precision import StreamedPrecision
from raylabel.masks.rle import encode_masks, mask_areas

SIDE, NUM_CLASSES = 64, 6


def scenes(*, is_federated: bool, num_images: int = 30, num_detections: int = 350) -> tuple[dict[str, Any], list[Any]]:
    """Images with crowds, ties of scores, objects of all sizes, and more detections than LVIS's protocol takes."""
    rng = np.random.default_rng(0)
    images, annotations, detections = [], [], []
    for image_id in range(1, num_images + 1):
        images.append({"id": image_id, "height": SIDE, "width": SIDE})
        classes = rng.integers(1, NUM_CLASSES + 1, 5)
        if is_federated:
            images[-1] |= {
                "neg_category_ids": rng.integers(1, NUM_CLASSES + 1, 2).tolist(),
                "not_exhaustive_category_ids": classes[: image_id % 2].tolist(),
            }
        objects = [shape(rng) for _ in classes]
        for place, category in enumerate(classes.tolist()):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image_id, "category_id": category}
                | {"segmentation": objects[place], "iscrowd": int(not is_federated and rng.random() < 0.1)}
                | {"area": area(objects[place])}
            )
        for _ in range(0 if image_id == 3 else num_detections):
            place = int(rng.integers(len(classes)))
            detections.append(
                {"image_id": image_id, "category_id": int(classes[place] if rng.random() < 0.5 else 1 + place)}
                | {"score": round(float(rng.random()), 1)}
                | {"segmentation": objects[place] if rng.random() < 0.3 else shape(rng)}
                | ({"bbox": [1.0, 2.0, float(rng.integers(5, 90)), 20.0]} if rng.random() < 0.3 else {})
            )
    categories = [
        {"id": one, "name": str(one)} | ({"frequency": "rcf"[one % 3]} if is_federated else {})
        for one in range(1, NUM_CLASSES + 1)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}, detections


def shape(rng: np.random.Generator) -> dict[str, Any]:
    mask = np.zeros((1, SIDE, SIDE), dtype=bool)
    (top, left), (height, width) = rng.integers(0, 50, 2), rng.integers(4, 60, 2)
    mask[0, top : top + height, left : left + width] = True
    [rle] = encode_masks(mask)
    return {"size": [SIDE, SIDE], "counts": rle["counts"].decode()}


def area(mask: dict[str, Any]) -> float:
    return float(mask_areas([mask | {"counts": mask["counts"].encode()}])[0])  # type: ignore[list-item]


def whole_figures(dataset: dict[str, Any], detections: list[Any], chosen: set[int]) -> dict[str, float | None]:
    """The reference: one evaluation of some images, with all of their detections in memory."""
    truth = COCO(
        dataset
        | {
            "images": [one for one in dataset["images"] if one["id"] in chosen],
            "annotations": [one for one in dataset["annotations"] if one["image_id"] in chosen],
        }
    )
    rows = [one for one in detections if one["image_id"] in chosen]
    if "neg_category_ids" in dataset["images"][0]:
        evaluation = LVISeval(truth, LVISResults(truth, rows, 300), "segm")
    else:
        evaluation = COCOeval(truth, truth.load_res(rows), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summary_lines()
    figures = evaluation.get_results()
    return {name: None if figures[name] < 0 else figures[name] for name in evaluation.metric_keys()}


@pytest.mark.parametrize("is_federated", [False, True])
def test_figures_are_those_of_one_evaluation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_federated: bool
) -> None:
    dataset, detections = scenes(is_federated=is_federated)
    everything = {one["id"] for one in dataset["images"]}
    assert "bbox" not in detections[0] or not is_federated  # the first decides for all in LVIS's protocol
    expected = whole_figures(dataset, detections, everything)
    assert expected["AP"] is not None
    assert evaluate_results(dataset, detections) == expected
    # Entries in any order, as long as those of an image keep theirs, and in groups of few images.
    monkeypatch.setattr(raylabel.predictions.results_by_image, "IMAGES_PER_GROUP", 4)
    monkeypatch.setattr(raylabel.processes, "num_cpus", lambda: 1)
    boxed = [{"bbox": [0.0, 0.0, 9.0, 9.0]} | one if row == 0 else one for row, one in enumerate(detections)]
    assert evaluate_results(dataset, boxed) == whole_figures(dataset, boxed, everything)
    order = [0, *(1 + np.argsort([-one["image_id"] for one in detections[1:]], kind="stable")).tolist()]
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join(json.dumps(detections[row]) for row in order))
    checked = check_results(dataset, path)
    assert checked.figures() == expected
    assert checked.num_images_without_detection == 1
    assert [one["score"] for one in checked.detections] == [detections[row]["score"] for row in order]


@pytest.mark.parametrize("is_federated", [False, True])
def test_figures_without_a_part_are_those_of_the_other_images(is_federated: bool) -> None:
    dataset, detections = scenes(is_federated=is_federated, num_detections=60)
    detections = [{name: value for name, value in one.items() if name != "bbox"} for one in detections]
    numbers = [one["id"] for one in dataset["images"]]
    measured = jackknife_results(dataset, detections)
    assert measured.figures == whole_figures(dataset, detections, set(numbers))
    parts = np.array_split(np.random.default_rng(0).permutation(numbers), NUM_PARTS)
    assert len(measured.without) == len(parts)
    for figures, part in zip(measured.without, parts, strict=True):
        assert figures == whole_figures(dataset, detections, set(numbers) - set(part.tolist()))


@pytest.mark.parametrize("is_federated", [False, True])
def test_results_that_come_by_image_give_the_same(is_federated: bool) -> None:
    dataset, detections = scenes(is_federated=is_federated, num_images=23, num_detections=40)
    detections = [{name: value for name, value in one.items() if name != "bbox"} for one in detections]
    groups = {one: "rcf"[one % 3] for one in range(1, NUM_CLASSES + 1)}
    precision = StreamedPrecision(dataset, frequency_groups=groups)
    numbers = [one["id"] for one in dataset["images"]]
    for shard in ([5, 1, 2], [3], [one for one in numbers if one not in (1, 2, 3, 5)]):
        precision.add("model", {one: [row for row in detections if row["image_id"] == one] for one in shard})
    assert precision.measured() == {"model": jackknife_results(dataset, detections, frequency_groups=groups)}


def test_no_detection_at_all() -> None:
    dataset, _ = scenes(is_federated=True, num_detections=0)
    assert evaluate_results(dataset, []) == whole_figures(dataset, [], {one["id"] for one in dataset["images"]})
