"""Matching against the rule one by one, pycocotools and lvis-api."""

import contextlib
import importlib
import io
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from raylabel.calibration import Detections, ImagePredictions, match_image, match_set
from raylabel.dataset.annotations import AnnotatedSet, read_annotations
from raylabel.masks.rle import encode_masks, mask_iou
from raylabel.predictions.matching import ImageToMatch, match_images, verification_weights
from squares import CORRECT, IGNORED, INCORRECT, SIZE, squares


def reference_outcomes(image: ImageToMatch, masks: list[Any], iou_threshold: float) -> list[int]:
    """Apply the matching rule to one prediction after the other, with pycocotools' IoU."""
    taken: set[int] = set()
    found = dict[int, int]()
    for row in np.argsort(-image.scores, kind="stable").tolist():
        one = int(image.class_indices[row])
        same = np.flatnonzero(image.object_classes == one).tolist()
        iou = mask_iou([image.masks[row]], [masks[place] for place in same], image.object_is_crowd[same].tolist())
        over = [(value, place) for value, place in zip(iou.ravel(), same, strict=True) if value >= iou_threshold]
        free = [pair for pair in over if pair[1] not in taken and not image.object_is_crowd[pair[1]]]
        is_verified = same or image.negative_classes is None or one in image.negative_classes
        if free:
            taken.add(max(free)[1])
            found[row] = CORRECT
        elif any(image.object_is_crowd[place] for _, place in over) or not is_verified:
            found[row] = IGNORED
        else:
            found[row] = IGNORED if one in image.not_exhaustive_classes else INCORRECT
    return [found[row] for row in range(len(image.masks))]


def random_image(rng: np.random.Generator, num_classes: int) -> tuple[ImageToMatch, list[Any]]:
    num, num_objects = rng.integers(0, 9, 2)
    height, width = rng.integers(1, 9, 2)

    def some_masks(count: int) -> list[Any]:
        masks = rng.random((count, height, width)) < rng.choice([0.1, 0.5, 0.9], (count, 1, 1))
        return encode_masks(masks) if count else []

    objects = some_masks(num_objects)
    copies = some_masks(num) if not num_objects else [objects[i] for i in rng.integers(0, num_objects, num)]
    masks = [one if rng.random() < 0.5 else copy for one, copy in zip(some_masks(num), copies, strict=True)]
    is_federated = rng.random() < 0.5
    image = ImageToMatch(
        image_size_hw=(int(height), int(width)),
        class_indices=rng.integers(0, num_classes, num),
        scores=rng.choice([0.2, 0.5, 0.7], num),
        masks=masks,
        object_classes=rng.integers(0, num_classes, num_objects),
        object_is_crowd=rng.random(num_objects) < 0.2,
        object_segmentations=lambda places: [objects[place] for place in places],
        negative_classes=frozenset(rng.integers(0, num_classes, 1).tolist()) if is_federated else None,
        not_exhaustive_classes=frozenset(rng.integers(0, num_classes, 1).tolist()) if is_federated else frozenset(),
    )
    return image, objects


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_many_images_at_once_equal_the_rule_one_by_one(seed: int, num_images: int, iou_threshold: float) -> None:
    rng = np.random.default_rng(seed)
    drawn = [random_image(rng, num_classes=3) for _ in range(num_images)]
    expected = [one for image, objects in drawn for one in reference_outcomes(image, objects, iou_threshold)]
    found = match_images([image for image, _ in drawn], iou_threshold=iou_threshold)
    assert found.dtype == np.int8
    assert found.tolist() == expected


def test_objects_of_every_form() -> None:
    """The same 10x10 square as integer and float polygons, compressed and uncompressed RLE, one per image."""
    [square] = squares((0, 0, 10))
    runs = [run for _ in range(10) for run in (10, 10)]
    forms: list[Any] = [
        [[0, 0, 0, 10, 10, 10, 10, 0]],
        [[0.0, 0.0, 0.0, 10.0, 10.0, 10.0, 10.0, 0.0]],
        [[0, 0, 0, 10, 5, 10, 5, 0], [5, 0.0, 5, 10, 10, 10, 10, 0]],
        square,
        {"size": list(SIZE), "counts": square["counts"].decode()},
        {"size": list(SIZE), "counts": [0, *runs[1:], 10 + 20 * 10]},
    ]
    images = [
        ImageToMatch(
            image_size_hw=SIZE,
            class_indices=np.array([1, 3, 3]),
            scores=np.array([0.9, 0.8, 0.7], dtype=np.float32),
            masks=squares((0, 0, 10), (0, 1, 10), (0, 0, 10)),
            object_classes=np.array([3]),
            object_is_crowd=np.array([False]),
            object_segmentations=lambda places, form=form: [form for _ in places],
            negative_classes=None,
            not_exhaustive_classes=frozenset(),
        )
        for form in forms
    ]
    assert match_images(images, iou_threshold=0.8).tolist() == [INCORRECT, CORRECT, INCORRECT] * len(forms)
    assert match_images(images, iou_threshold=0.9).tolist() == [INCORRECT, INCORRECT, CORRECT] * len(forms)


def predictions_of(results: list[dict[str, Any]], annotated: AnnotatedSet) -> dict[int, ImagePredictions]:
    row_of = {image.image_id: row for row, image in enumerate(annotated.images)}
    grouped: dict[int, list[dict[str, Any]]] = {}
    for one in results:
        grouped.setdefault(row_of[one["image_id"]], []).append(one)
    return {
        row: ImagePredictions(
            np.array([annotated.class_index_of[one["category_id"]] for one in group]),
            np.array([one["score"] for one in group]),
            [{"size": one["segmentation"]["size"], "counts": one["segmentation"]["counts"].encode()} for one in group],
        )
        for row, group in grouped.items()
    }


def outcome_by_result(results: list[dict[str, Any]], annotated: AnnotatedSet) -> dict[int, int]:
    """Match results, and map each result's place in the list to its outcome."""
    row_of = {image.image_id: row for row, image in enumerate(annotated.images)}
    places = sorted(range(len(results)), key=lambda place: row_of[results[place]["image_id"]])
    outcomes = match_set(annotated, predictions_of(results, annotated)).known_outcomes
    return dict(zip(places, outcomes.tolist(), strict=True))


def test_equals_cocoeval_on_a_real_detector(shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("external_detector")
    results = json.loads((folder / "results.json").read_text())
    ours = outcome_by_result(results, read_annotations(str(folder / "instances.json")))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / "instances.json"))
        evaluation = COCOeval(coco, coco.loadRes([dict(one) for one in results]), "segm")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.maxDets = [10_000]
        # The range includes negative areas, because some of these boxes have a negative side.
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[-1e10, 1e10]], ["all"]
        evaluation.evaluate()
    theirs = {}
    for image in evaluation.evalImgs:
        if image is not None:
            for result_id, matched, ignored in zip(
                image["dtIds"], image["dtMatches"][0], image["dtIgnore"][0], strict=True
            ):
                theirs[result_id - 1] = IGNORED if ignored else CORRECT if matched else INCORRECT
    assert len(theirs) == len(results)
    assert ours == theirs
    assert set(ours.values()) == {0, 1, 2}


def test_a_set_equals_its_images(shared_data: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shared_data("external_detector")
    annotated = read_annotations(str(folder / "instances.json")).subset(range(40))
    results = json.loads((folder / "results.json").read_text())
    known = {image.image_id for image in annotated.images}
    predictions = predictions_of([one for one in results if one["image_id"] in known], annotated)
    whole = match_set(annotated, predictions)
    monkeypatch.setattr(importlib.import_module("raylabel.calibration.match_set"), "_MASKS_AT_A_TIME", 100)
    in_batches = match_set(annotated, predictions)
    weights = verification_weights(annotated)
    each = Detections.concat(
        [match_image(annotated, row, predictions[row], class_weights=weights) for row in sorted(predictions)]
    )
    assert len(whole) > 1000
    for field in fields(Detections):
        values = getattr(whole, field.name)
        np.testing.assert_array_equal(getattr(each, field.name), values, err_msg=field.name)
        np.testing.assert_array_equal(getattr(in_batches, field.name), values, err_msg=field.name)


def test_equals_lvis_eval_on_federated_truth(
    shared_data: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shared_data("external_detector")
    content = json.loads((folder / "instances.json").read_text())
    results = json.loads((folder / "results.json").read_text())
    kept_images = {image["id"] for image in content["images"][:80]}
    rng = np.random.default_rng(0)
    content["images"] = [image for image in content["images"] if image["id"] in kept_images]
    content["annotations"] = [
        one for one in content["annotations"] if one["image_id"] in kept_images and not one["iscrowd"]
    ]
    ids = [category["id"] for category in content["categories"]]
    for category in content["categories"]:
        category["frequency"] = "f"
    for image in content["images"]:
        present = {one["category_id"] for one in content["annotations"] if one["image_id"] == image["id"]}
        image["neg_category_ids"] = [one for one in ids if one not in present and rng.random() < 0.4]
        image["not_exhaustive_category_ids"] = [one for one in sorted(present) if rng.random() < 0.3]
    # Without empty boxes, because lvis-api drops them.
    results = [one for one in results if one["image_id"] in kept_images and min(one["bbox"][2:]) > 0]
    path = tmp_path / "federated.json"
    path.write_text(json.dumps(content))
    ours = outcome_by_result(results, read_annotations(str(path)))

    monkeypatch.setattr(np, "float", float, raising=False)
    lvis = pytest.importorskip("lvis")
    truth = lvis.LVIS(str(path))
    evaluation = lvis.LVISEval(truth, lvis.LVISResults(truth, [dict(one) for one in results], max_dets=-1), "segm")
    evaluation.params.iou_thrs = np.array([0.5])
    evaluation.params.area_rng = [[-1e10, 1e10]]
    evaluation.evaluate()
    theirs = dict.fromkeys(range(len(results)), IGNORED)
    for image in evaluation.eval_imgs:
        if image is not None:
            for result_id, matched, ignored in zip(
                image["dt_ids"], image["dt_matches"][0], image["dt_ignore"][0], strict=True
            ):
                theirs[result_id - 1] = IGNORED if ignored else CORRECT if matched else INCORRECT
    assert ours == theirs
    assert min(np.bincount(list(ours.values()))) > 50
