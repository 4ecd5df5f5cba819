"""Any value in any field of an annotation file gives a set that every stage can use, or one line."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from json_values import near
from one_line import value_or_line
from raylabel.calibration import ImagePredictions, match_set
from raylabel.dataset.annotations import AnnotatedSet, read_annotations
from raylabel.evaluation.average_precision import evaluate_results
from raylabel.masks.rle import encode_masks

SQUARE = [[0, 0, 4, 0, 4, 4, 0, 4]]
OBJECT = {"image_id": 1, "category_id": 7, "segmentation": SQUARE, "bbox": [0, 0, 4, 4], "area": 16, "iscrowd": 0}
CONTENT: dict[str, Any] = {
    "images": [
        {"id": 1, "file_name": "a.jpg", "height": 8, "width": 8, "neg_category_ids": [9], "coco_url": "u/v/a.jpg"}
        | {"not_exhaustive_category_ids": [9]},
        {"id": 2, "file_name": "b.jpg", "height": 8, "width": 8, "neg_category_ids": []},
    ],
    "categories": [{"id": 7, "name": "cat", "frequency": "r"}, {"id": 9, "name": "dog", "frequency": "f"}],
    "annotations": [
        OBJECT | {"id": 1},
        OBJECT | {"id": 2, "image_id": 2, "segmentation": {"size": [8, 8], "counts": "04400000P1"}},
        OBJECT | {"id": 3, "image_id": 2, "segmentation": {"size": [8, 8], "counts": [0, 4, 4, 4, 52]}},
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("annotations")


def read(content: Any, folder: Path) -> tuple[AnnotatedSet | None, str]:
    path = folder / "set.json"
    path.write_text(json.dumps(content))
    annotated, line = value_or_line(lambda: read_annotations(path))
    assert not line or line.startswith(str(path))
    return annotated, line


def use(annotated: AnnotatedSet) -> dict[str, float | None]:
    """Do what the stages do with a set: masks, boxes, counts, matching, and AP of a perfect detector."""
    masks = encode_masks(np.ones((1, *annotated.images[0].image_size_hw), bool))
    found = {0: ImagePredictions(np.array([0], np.int32), np.array([0.5]), masks)}
    assert len(match_set(annotated, found)) == 1
    truth = [annotated.ground_truth(row) for row in range(len(annotated))]
    assert all(np.isfinite(one.boxes_xyxy).all() for one in truth)
    assert annotated.class_instance_counts().sum() == sum((~one.is_crowd).sum() for one in truth)
    results = [
        {
            "image_id": image.image_id,
            "category_id": one["category_id"],
            "score": 0.9,
            "segmentation": one["segmentation"],
        }
        for image, of_image in zip(annotated.images, annotated.annotations, strict=True)
        for one in of_image
    ]
    return evaluate_results(annotated.to_json(), results)


@given(data=st.data())
@settings(max_examples=500, deadline=None)
def test_any_value_in_any_field(folder: Path, data: st.DataObject) -> None:
    content = copy.deepcopy(CONTENT)
    rows = content[data.draw(st.sampled_from(sorted(content)))]
    one = data.draw(st.sampled_from(rows))
    name = data.draw(st.sampled_from([*one, "extra"]))
    one[name] = data.draw(near(one.get(name, 1)))
    annotated, _ = read(content, folder)
    if name == "extra":
        assert annotated is not None
    if annotated is not None:
        use(annotated)
    value_or_line(lambda: evaluate_results(content, []))
    value_or_line(lambda: evaluate_results(content, [], iou_type="bbox"))


@pytest.mark.parametrize("ids", [(-1, 0), (0, 1), (-5, -(2**63)), (2**63 - 1, 3)])
def test_category_ids_of_any_sign_work_everywhere(folder: Path, ids: tuple[int, int]) -> None:
    reference, _ = read(CONTENT, folder)
    numbers = dict(zip((7, 9), sorted(ids), strict=True))
    content = copy.deepcopy(CONTENT)
    for one in content["categories"]:
        one["id"] = numbers[one["id"]]
    for one in content["annotations"]:
        one["category_id"] = numbers[one["category_id"]]
    for one in content["images"]:
        for name in ("neg_category_ids", "not_exhaustive_category_ids"):
            one[name] = [numbers[value] for value in one.get(name, [])]
    annotated, line = read(content, folder)
    assert annotated is not None, line
    assert reference is not None
    assert use(annotated) == use(reference)


def test_ids_beyond_64_bits(folder: Path) -> None:
    content = copy.deepcopy(CONTENT)
    content["categories"][0]["id"] = 2**63
    assert (
        "category number 0: id must be an integer of at most 64 bits, got 9223372036854775808"
        in read(content, folder)[1]
    )
    content = copy.deepcopy(CONTENT)
    for one in (content["images"][0], content["annotations"][2]):
        one["id"] = 2**80
    content["annotations"][0]["image_id"] = 2**80
    annotated, _ = read(content, folder)
    assert annotated is not None
    assert use(annotated)["AP"] == pytest.approx(1)


@pytest.mark.parametrize("counts", ["04400000P1", [0, 4, 4, 4, 52]])
def test_rle_sizes_of_floats_become_integers(folder: Path, counts: Any) -> None:
    content = copy.deepcopy(CONTENT)
    content["annotations"][1]["segmentation"] = {"size": [8.0, 8.0], "counts": counts}
    annotated, _ = read(content, folder)
    assert annotated is not None
    size = annotated.annotations[1][0]["segmentation"]["size"]
    assert (size, [type(side) for side in size]) == ([8, 8], [int, int])
    assert use(annotated)["AP"] == pytest.approx(1)
