"""AP equals COCO's published numbers, pycocotools and lvis-api; bad input is refused."""

import contextlib
import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lvis_detections import lvis_detections
from raylabel.errors import InputError
from raylabel.evaluation import average_precision
from raylabel.evaluation.average_precision import evaluate_results, results_of_image, to_results
from raylabel.masks.rle import encode_masks

COCO_NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
LVIS_NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"]
LVIS_NAMES += ["AR@300", "ARs@300", "ARm@300", "ARl@300"]
# eval_reference/ORIGIN.txt: 10 digits of the tests of faster_coco_eval, 3 of COCO's own val2014_fake_eval_res.txt.
TEN_DIGITS = {
    "segm": {"AP": 0.3195452758576433, "AP50": 0.5622883972521636, "AP75": 0.29892653412086784},
    "bbox": {"AP": 0.5045806987249628, "AP50": 0.6969727247299577, "AP75": 0.5729816669904824},
}
PUBLISHED = {
    "segm": [0.320, 0.562, 0.299, 0.387, 0.310, 0.327, 0.268, 0.415, 0.417, 0.469, 0.377, 0.381],
    "bbox": [0.505, 0.697, 0.573, 0.586, 0.519, 0.501, 0.387, 0.594, 0.595, 0.640, 0.566, 0.564],
}


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


@pytest.fixture
def tiny() -> dict[str, Any]:
    """Two images, one 8 px square of class 3 in the first; class 5 is never annotated."""
    return {
        "images": [{"id": 1, "height": 20, "width": 30}, {"id": 2, "height": 20, "width": 30}],
        "categories": [{"id": 3, "name": "a"}, {"id": 5, "name": "b"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "area": 64, "segmentation": square(2, 2, 8)}],
    }


def detection(**changes: Any) -> dict[str, Any]:
    return {"image_id": 1, "category_id": 3, "score": 0.9, "segmentation": square(2, 2, 8)} | changes


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
def test_coco_example_to_every_published_digit(shared_data: Any, iou_type: Any) -> None:
    folder = shared_data("eval_reference")
    truth, results = (
        str(folder / name)
        for name in ("instances_val2014_100.json", f"instances_val2014_fake{iou_type}100_results.json")
    )
    metrics = evaluate_results(truth, results, iou_type=iou_type)
    assert list(metrics) == COCO_NAMES
    for name, value in TEN_DIGITS[iou_type].items():
        assert metrics[name] == pytest.approx(value, abs=1e-12)
    assert [f"{value:.3f}" for value in metrics.values()] == [f"{value:.3f}" for value in PUBLISHED[iou_type]]
    assert list(metrics.values()) == pytest.approx(pycocotools_figures(truth, results, iou_type), abs=1e-12)


def pycocotools_figures(truth: str, results: str, iou_type: str) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO(truth)
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(results), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return list(evaluation.stats)


def test_masks_with_boxes_of_a_real_detector_like_pycocotools(shared_data: Any, tmp_path: Path) -> None:
    folder = shared_data("external_detector")
    rows = json.loads((folder / "results.json").read_text())[:800]
    assert all("bbox" in row for row in rows)
    results = tmp_path / "results.json"
    results.write_text(json.dumps(rows))
    metrics = evaluate_results(str(folder / "instances.json"), str(results))
    expected = pycocotools_figures(str(folder / "instances.json"), str(results), "segm")
    assert list(metrics.values()) == pytest.approx(expected, abs=1e-12)


def test_lvis_like_lvis_api(shared_data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "float", float, raising=False)  # because lvis-api 0.5.3 still uses it
    lvis = pytest.importorskip("lvis")
    path = shared_data("lvis_reference") / "lvis_val_100.json"
    truth = json.loads(path.read_text())
    rows = lvis_detections(truth, seed=3)
    results = tmp_path / "results.json"
    results.write_text(json.dumps(rows))

    ground_truth = lvis.LVIS(str(path))
    oracle = lvis.LVISEval(ground_truth, lvis.LVISResults(ground_truth, str(results)), "segm")
    with contextlib.redirect_stdout(io.StringIO()):
        oracle.run()
    expected = oracle.get_results()

    metrics = evaluate_results(str(path), str(results))
    assert list(metrics) == LVIS_NAMES
    assert metrics == pytest.approx({name: float(expected[name]) for name in LVIS_NAMES}, abs=1e-12)
    assert 0.1 < metrics["AP"] < 0.9, "the detections must be neither perfect nor useless"
    assert len({metrics["APr"], metrics["APc"], metrics["APf"]}) == 3


def test_federated_data_forgives_what_was_not_verified(tiny: dict[str, Any]) -> None:
    stray = detection(image_id=2, score=0.95)
    assert evaluate_results(tiny, [detection(), stray])["AP"] == pytest.approx(0.5)
    tiny["images"][0]["neg_category_ids"] = None
    assert evaluate_results(tiny, [detection(), stray])["AP"] == pytest.approx(1)
    tiny["images"][1]["neg_category_ids"] = [3]
    assert evaluate_results(tiny, [detection(), stray])["AP"] == pytest.approx(0.5)


def test_no_ground_truth_is_none_and_no_detection_is_zero(tiny: dict[str, Any]) -> None:
    metrics = evaluate_results(tiny, [])
    assert (metrics["AP"], metrics["APs"], metrics["AR100"]) == (0, 0, 0)
    assert (metrics["APm"], metrics["APl"]) == (None, None)
    tiny["annotations"] = None
    assert set(evaluate_results(tiny, [detection()]).values()) == {None}


def test_lvis_groups_without_ground_truth_are_none(tiny: dict[str, Any]) -> None:
    tiny["images"][0]["neg_category_ids"] = []
    tiny["categories"][0]["frequency"], tiny["categories"][1]["frequency"] = "c", "r"
    metrics = evaluate_results(tiny, [detection()])
    assert metrics["APc"] == pytest.approx(1)
    assert (metrics["APr"], metrics["APf"]) == (None, None)


def test_frequency_groups_add_their_ap_to_coco_figures(tiny: dict[str, Any]) -> None:
    tiny["annotations"].append({"id": 2, "image_id": 2, "category_id": 5, "area": 64, "segmentation": square(9, 9, 8)})
    metrics = evaluate_results(tiny, [detection()], frequency_groups={3: "f", 5: "r"})
    assert metrics["AP"] == pytest.approx(0.5)
    assert metrics["APf"] == pytest.approx(1)
    assert (metrics["APr"], metrics["APc"]) == (0, None)


def test_a_class_without_truth_does_not_count_in_its_groups_ap(tiny: dict[str, Any]) -> None:
    """Class 5 has no object, so it has no AP, and the group's AP is that of class 3 alone."""
    metrics = evaluate_results(tiny, [detection()], frequency_groups={3: "r", 5: "r"})
    assert metrics["APr"] == pytest.approx(1)
    assert (metrics["APc"], metrics["APf"]) == (None, None)


def test_given_groups_replace_those_of_the_file(tiny: dict[str, Any]) -> None:
    """Groups belong to the training images, and a validation file may declare others."""
    tiny["images"][0]["neg_category_ids"] = []
    tiny["categories"][0]["frequency"], tiny["categories"][1]["frequency"] = "c", "r"
    metrics = evaluate_results(tiny, [detection()], frequency_groups={3: "f", 5: "r"})
    assert metrics["APf"] == pytest.approx(1)
    assert (metrics["APr"], metrics["APc"]) == (None, None)
    assert evaluate_results(tiny, [detection()], frequency_groups={5: "r"})["APc"] is None


def test_ids_areas_and_nulls_are_normalised(tiny: dict[str, Any]) -> None:
    reference = evaluate_results(tiny, [detection(), detection(image_id=2, score=0.95)])
    changed = copy.deepcopy(tiny) | {"licenses": None, "info": None}
    for image in changed["images"]:
        image["id"] = f"folder/{image['id']}"
    [annotation] = changed["annotations"]
    del annotation["area"]
    annotation |= {"image_id": "folder/1", "id": 0, "iscrowd": None}
    rows = [detection(image_id="folder/1"), detection(image_id="folder/2", score=0.95)]
    assert evaluate_results(changed, rows) == reference


def test_inputs_are_left_as_they_were(tiny: dict[str, Any]) -> None:
    rows = [detection()]
    before = copy.deepcopy((tiny, rows))
    evaluate_results(tiny, rows)
    assert (tiny, rows) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 99}, r"entry 1: unknown image_id 99\. 1 of 2 entries name no image of the annotations"),
        ({"image_id": [1]}, "entry 1: unknown image_id"),
        ({"category_id": 0}, "entry 1: unknown category_id 0"),
        ({"category_id": []}, "entry 1: unknown category_id"),
        ({"score": None}, "entry 1: score must be a finite number, got None"),
        ({"score": float("nan")}, "entry 1: score must be a finite number, got nan"),
        ({"segmentation": None, "bbox": [0, 0, 5, 5]}, "entry 1 has no segmentation"),
        (
            {"segmentation": {"size": [30, 20], "counts": "a"}},
            r"entry 1 \(image 1\): RLE size must be \[20, 30\] .* \[30, 20\]",
        ),
        ({"segmentation": [[1, 2, 3, 4]]}, "entry 1 .image 1.: a polygon must .* at least 3 points"),
        ({"bbox": [1, 2]}, r"entry 1: bbox must be 4 finite numbers .* got \[1, 2\]"),
    ],
)
def test_bad_detections_are_named(tiny: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        evaluate_results(tiny, [detection(), detection(**changes)])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"detections": []}, "must be a list of detections, got dict"),
        (None, "must be a list of detections, got NoneType"),
        ([3], "entry 0 must be an object, got int"),
        ("{", "not JSON"),
    ],
)
def test_results_that_are_not_a_list(tiny: dict[str, Any], tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=f"results.json: .*{message}"):
        evaluate_results(tiny, str(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "has no images"),
        ({"annotations": {"id": 1}}, "'annotations' must be a list of objects"),
        ({"images": [{"id": 1}, {"id": 1}]}, "image id 1 is given twice"),
        ({"categories": [{"id": 3}, {"id": "x"}]}, "category number 1: id must be an integer"),
        ({"annotations": [{"image_id": 7, "category_id": 3}]}, "annotation number 0: unknown image_id 7"),
        ({"annotations": [{"id": 4, "image_id": 1, "category_id": 9}]}, "annotation 4: unknown category_id 9"),
        ({"annotations": [{"id": 4, "image_id": 1, "category_id": 3}]}, "annotation 4: has no segmentation"),
    ],
)
def test_bad_annotations_are_named(tiny: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate_results(tiny | changes, [])


def test_box_precision_needs_boxes(tiny: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="annotation 1: has no bbox, which iou_type 'bbox' needs"):
        evaluate_results(tiny, [detection(bbox=[2, 2, 8, 8])], iou_type="bbox")
    tiny["annotations"][0]["bbox"] = [2, 2, 8, 8]
    with pytest.raises(InputError, match="entry 0 has no bbox, which iou_type 'bbox' needs"):
        evaluate_results(tiny, [detection()], iou_type="bbox")
    assert evaluate_results(tiny, [detection(bbox=[2, 2, 8, 8])], iou_type="bbox")["AP"] == pytest.approx(1)


def test_polygons_need_the_size_of_their_image(tiny: dict[str, Any]) -> None:
    del tiny["images"][0]["height"]
    with pytest.raises(InputError, match="annotations: image 1: height must be a positive integer, got None") as raised:
        evaluate_results(tiny, [detection()])
    assert "\n" not in str(raised.value)


def test_absent_list_is_named(tiny: dict[str, Any]) -> None:
    del tiny["categories"]
    with pytest.raises(InputError, match="has no list 'categories'"):
        evaluate_results(tiny, [])


def test_missing_file_and_unknown_iou_type(tiny: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"nowhere\.json: no such file"):
        evaluate_results("nowhere.json", [])
    with pytest.raises(InputError, match="iou_type must be segm or bbox, got 'mask'"):
        evaluate_results(tiny, [], iou_type="mask")


def test_to_results_is_json_that_evaluates_perfectly(tiny: dict[str, Any]) -> None:
    mask = np.zeros((1, 20, 30), bool)
    mask[0, 2:10, 2:10] = True
    rows = to_results(
        1,
        class_indices=np.array([0], np.int32),
        scores=np.array([0.75], np.float32),
        masks=encode_masks(mask),
        category_ids=np.array([3, 5]),
        boxes_xyxy=np.array([[2, 2, 10, 10]], np.float32),
    )
    assert rows == json.loads(json.dumps(rows))
    assert rows[0]["bbox"] == [2, 2, 8, 8]
    assert rows[0]["category_id"] == 3
    assert rows[0]["score"] == 0.75
    assert evaluate_results(tiny, rows)["AP"] == pytest.approx(1)


def test_an_object_has_a_row_for_each_class_that_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = encode_masks(np.ones((2, 4, 4), bool))
    soft_vectors = np.array([[0.6, 0.3, 0.005, 0.095], [0.0, 0.2, 0.1, 0.7]])
    ids = np.array([10, 20, 30])
    rows = results_of_image(5, masks, soft_vectors, ids)
    assert [(row["image_id"], row["category_id"], row["score"]) for row in rows] == [
        (5, 10, 0.6),
        (5, 20, 0.3),
        (5, 20, 0.2),
        (5, 30, 0.1),
    ]
    monkeypatch.setattr(average_precision, "MAX_RESULTS_PER_IMAGE", 2)
    assert [row["score"] for row in results_of_image(5, masks, soft_vectors, ids)] == [0.6, 0.3]
    assert results_of_image(5, [], np.zeros((0, 4)), ids) == []


@pytest.mark.parametrize(("num_false", "precision"), [(250, 1.0), (300, 0.0)])
def test_lvis_looks_at_300_detections_of_an_image(tiny: dict[str, Any], num_false: int, precision: float) -> None:
    """The right detection of class 3 comes after false ones of class 5, which count on their own."""
    tiny["images"][0]["neg_category_ids"] = [5]
    false = [detection(category_id=5, score=0.95, segmentation=square(12, 2, 5)) for _ in range(num_false)]
    groups = {3: "r", 5: "f"}
    assert evaluate_results(tiny, [*false, detection()], frequency_groups=groups)["APr"] == pytest.approx(precision)


def test_the_best_300_results_of_an_image_are_kept() -> None:
    """200 objects may be two classes each. Scores below 0.01 make no result."""
    rng = np.random.default_rng(0)
    soft_vectors = np.column_stack([rng.uniform(0.01, 0.6, (200, 2)), np.full(200, 0.005), np.full(200, 0.1)])
    masks = encode_masks(np.ones((200, 4, 4), bool))
    rows = results_of_image(7, masks, soft_vectors, np.array([3, 5, 9]))
    expected = np.sort(soft_vectors[:, :2].ravel())[::-1][:300]
    np.testing.assert_allclose([row["score"] for row in rows], expected)
    assert {row["category_id"] for row in rows} == {3, 5}
