"""Figures from match rows are those of one evaluation of all images, to the last bit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hotcoco import COCO, COCOeval, LVISeval, LVISResults

import raylabel.predictions.results_by_image
import raylabel.processes
from crowded_scenes import scenes
from raylabel.evaluation.average_precision import evaluate_results
from raylabel.evaluation.checked_results import check_results
from raylabel.evaluation.precision_intervals import NUM_PARTS, jackknife_results


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
    checked = check_results(dataset, path, has_sample=True)
    assert checked.figures() == expected
    assert checked.num_images_without_detection == 1
    assert [one["score"] for one in checked.sample().detections] == [detections[row]["score"] for row in order]


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


def test_no_detection_at_all() -> None:
    dataset, _ = scenes(is_federated=True, num_detections=0)
    assert evaluate_results(dataset, []) == whole_figures(dataset, [], {one["id"] for one in dataset["images"]})
