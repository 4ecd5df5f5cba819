"""Verification: official evaluators agree, a broken evaluator is noticed, and nothing stays patched."""

import importlib
import json
import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crowded_scenes import scenes
from lvis_detections import lvis_detections
from raylabel.errors import InputError
from raylabel.evaluation import official, sample
from raylabel.evaluation.checked_results import check_results
from raylabel.evaluation.match_rows import figures
from raylabel.evaluation.official import Verification, numpy_float, require_evaluators, verify_results
from raylabel.report.console import format_verification

Content = dict[str, Any]


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


@pytest.fixture
def truth() -> Content:
    """Two images with one square each, of classes 3 and 5."""
    return {
        "images": [{"id": one, "height": 20, "width": 30} for one in (1, 2)],
        "categories": [{"id": 3, "name": "a", "frequency": "f"}, {"id": 5, "name": "b", "frequency": "r"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "segmentation": square(2, 2, 8), "bbox": [2, 2, 8, 8]},
            {"id": 2, "image_id": 2, "category_id": 5, "segmentation": square(9, 9, 8), "bbox": [9, 9, 8, 8]},
        ],
    }


@pytest.fixture
def rows() -> list[Content]:
    return [
        {"image_id": 1, "category_id": 3, "score": 0.9, "segmentation": square(2, 2, 8)},
        {"image_id": 2, "category_id": 5, "score": 0.8, "segmentation": square(9, 9, 7)},
        {"image_id": 2, "category_id": 3, "score": 0.95, "segmentation": square(1, 1, 5)},
    ]


def federated(truth: Content) -> Content:
    for image in truth["images"]:
        image["neg_category_ids"], image["not_exhaustive_category_ids"] = [3], []
    return truth


def verified(truth: Any, rows: Any, **options: Any) -> Verification:
    checked = check_results(truth, rows, has_sample=True, **options)
    return verify_results(checked, checked.figures())


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
def test_coco_example_agrees(shared_data: Callable[[str], Path], iou_type: str) -> None:
    folder = shared_data("eval_reference")
    results = folder / f"instances_val2014_fake{iou_type}100_results.json"
    found = verified(str(folder / "instances_val2014_100.json"), str(results), iou_type=iou_type)
    assert (found.evaluator, found.num_figures) == ("pycocotools", 12)
    assert found.largest_difference < 1e-12
    assert found.agrees


def test_lvis_sample_agrees(shared_data: Callable[[str], Path]) -> None:
    path = shared_data("lvis_reference") / "lvis_val_100.json"
    found = verified(str(path), lvis_detections(json.loads(path.read_text()), seed=3))
    assert (found.evaluator, found.num_figures) == ("lvis-api", 13)
    assert found.largest_difference < 1e-12


@pytest.mark.parametrize("is_federated", [False, True])
@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
def test_small_sets_agree(truth: Content, rows: list[Content], is_federated: bool, iou_type: Any) -> None:
    content = federated(truth) if is_federated else truth
    boxed = [one | {"bbox": [*one["segmentation"][0][:2], 7, 7]} for one in rows]
    checked = check_results(content, boxed, iou_type=iou_type, has_sample=True)
    figures = checked.figures()
    assert 0 < figures["AP"] < 1
    assert verify_results(checked, figures).largest_difference < 1e-12
    assert checked.figures() == figures, "the evaluators get copies"


@pytest.mark.parametrize("is_federated", [False, True])
def test_polygons_no_detection_and_no_truth_agree(truth: Content, rows: list[Content], is_federated: bool) -> None:
    content = federated(truth) if is_federated else truth
    assert verified(content, rows).largest_difference < 1e-12
    assert verified(content, []).largest_difference == 0
    assert verified(content | {"annotations": []}, rows).largest_difference == 0


def test_lvis_classes_may_lack_a_frequency(truth: Content, rows: list[Content]) -> None:
    del truth["categories"][1]["frequency"]
    assert verified(federated(truth), rows).largest_difference < 1e-12


def test_frequency_groups_count_for_both(truth: Content, rows: list[Content]) -> None:
    groups = {3: "r", 5: "c"}
    assert check_results(federated(truth), rows, frequency_groups=groups).figures()["APf"] is None
    assert verified(federated(truth), rows, frequency_groups=groups).largest_difference < 1e-12


def test_more_than_255_detections_of_a_class(truth: Content) -> None:
    many = [
        {"image_id": 1, "category_id": 3, "score": 0.001 * place, "segmentation": square(place % 20, 2, 8)}
        for place in range(400)
    ]
    assert verified(federated(truth), many).largest_difference < 1e-12


@pytest.mark.parametrize("is_federated", [False, True])
def test_a_broken_evaluator_is_noticed(
    truth: Content, rows: list[Content], is_federated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives half of the true recall of small objects."""
    content = federated(truth) if is_federated else truth

    def broken(*arguments: Any) -> Content:
        sound = figures(*arguments)
        return {name: value / 2 if name.startswith("ARs") and value else value for name, value in sound.items()}

    monkeypatch.setattr("raylabel.evaluation.checked_results.figures", broken)
    found = verified(content, rows)
    assert not found.agrees
    assert found.figure == ("ARs@300" if is_federated else "ARs")
    assert found.largest_difference > 0.3
    text = format_verification(found.to_json())
    assert text.startswith("NOT confirmed by")
    assert f"largest difference {found.largest_difference:.4f} ({found.figure})" in text


def test_a_figure_that_one_lacks_counts_as_minus_one(truth: Content, rows: list[Content]) -> None:
    checked = check_results(truth, rows, has_sample=True)
    found = verify_results(checked, checked.figures() | {"APs": None})
    assert (found.figure, found.agrees) == ("APs", False)
    assert found.largest_difference > 1


@pytest.mark.parametrize("is_federated", [False, True])
def test_of_many_detections_a_sample_of_the_images_is_verified(
    is_federated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its figures come from the match rows of all figures, and the detections keep their order."""
    dataset, rows = scenes(is_federated=is_federated, num_images=20, num_detections=50)
    rows = [{name: value for name, value in one.items() if name != "bbox"} for one in rows]
    whole = check_results(dataset, rows).figures()
    monkeypatch.setattr(sample, "MAX_VERIFIED_DETECTIONS", 300)
    checked = check_results(dataset, rows, has_sample=True)
    assert checked.figures() == whole
    numbers = {one["id"] for one in checked.sample().dataset["images"]}
    assert len(checked.sample().detections) <= 300 < len(rows)
    chosen = [one for one in rows if one["image_id"] in numbers]
    assert [one["score"] for one in checked.sample().detections] == [one["score"] for one in chosen]
    alone = {name: [one for one in dataset[name] if one[key] in numbers] for name, key in
             (("images", "id"), ("annotations", "image_id"))}  # fmt: skip
    assert checked.sample_figures() == check_results(dataset | alone, chosen).figures() != whole
    found = verify_results(checked, dict.fromkeys(whole, 2.0))
    assert (found.agrees, found.num_images, found.of_images) == (True, len(numbers), 20)
    assert f"on a sample of {len(numbers)} of 20 images" in format_verification(found.to_json())


def test_text_of_a_verification() -> None:
    found = Verification(
        evaluator="lvis-api",
        version="0.5.3",
        num_figures=13,
        largest_difference=2e-16,
        figure="APr",
        num_images=7,
        of_images=7,
    )
    whole = "verified with lvis-api 0.5.3: largest difference 0.0000 (APr)"
    assert format_verification(found.to_json()) == whole
    earlier = {name: value for name, value in found.to_json().items() if not name.endswith("_images")}
    assert format_verification(earlier) == whole
    assert format_verification(found.to_json() | {"of_images": 9}) == (
        "verified with lvis-api 0.5.3 on a sample of 7 of 9 images: largest difference 0.0000 (APr)"
    )
    assert format_verification(None) == "not verified"
    assert json.loads(json.dumps(found.to_json()))["agrees"] is True


def test_boxes_in_some_detections_only_are_refused(truth: Content, rows: list[Content]) -> None:
    rows[1]["bbox"] = [9, 9, 7, 7]
    with pytest.raises(InputError, match="results: 1 of 3 detections have a bbox"):
        verified(truth, rows)


def test_numpy_float_is_undone(truth: Content, rows: list[Content]) -> None:
    lvis = importlib.import_module("lvis.eval")
    assert not hasattr(np, "float")
    with numpy_float(lvis):
        assert lvis.np.float is float
        assert lvis.np.cumsum is np.cumsum
        assert not hasattr(np, "float")
    assert lvis.np is np
    with pytest.raises(RuntimeError), numpy_float(lvis):
        raise RuntimeError
    assert lvis.np is np
    verified(federated(truth), rows)
    assert lvis.np is np


def test_pycocotools_prints_nothing_and_keeps_its_print(
    truth: Content, rows: list[Content], capsys: pytest.CaptureFixture[str]
) -> None:
    verified(truth, rows)
    assert capsys.readouterr() == ("", "")
    for name in ("pycocotools.coco", "pycocotools.cocoeval"):
        assert "print" not in vars(sys.modules[name])


def test_threads_verify_side_by_side(truth: Content, rows: list[Content]) -> None:
    content = federated(truth)
    found: list[Verification] = []
    threads = [threading.Thread(target=lambda: found.append(verified(content, rows))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.agrees for one in found] == [True] * 4
    assert importlib.import_module("lvis.eval").np is np


def test_loading_leaves_the_log_alone() -> None:
    before = logging.root.handlers[:]
    for name in [name for name in sys.modules if name.partition(".")[0] == "lvis"]:
        del sys.modules[name]
    logging.root.handlers[:] = []
    try:
        require_evaluators()
        assert logging.root.handlers == []
    finally:
        logging.root.handlers[:] = before


def test_an_evaluator_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError("libGL.so.1: cannot open\nshared object file")

    monkeypatch.setattr(official.importlib, "import_module", absent)
    with pytest.raises(InputError, match=r"package pycocotools can't be loaded: libGL\.so\.1") as raised:
        require_evaluators()
    assert "\n" not in str(raised.value)


def test_a_damaged_mask_is_refused_before_any_evaluator_reads_it() -> None:
    """pycocotools would read these runs for ever."""
    truth = {
        "images": [{"id": 1, "height": 20, "width": 30}],
        "categories": [{"id": 3, "name": "a"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [2, 2, 8, 8], "area": 64, "iscrowd": 0,
                         "segmentation": [[2, 2, 10, 2, 10, 10, 2, 10]]}],
    }  # fmt: skip
    result = {"image_id": 1, "category_id": 3, "score": 0.9, "segmentation": {"size": [20, 30], "counts": "???zzz"}}
    with pytest.raises(InputError, match=r"results: entry 0 \(image 1\): "):
        check_results(truth, [result])
