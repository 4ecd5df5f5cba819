"""Matching against pycocotools and lvis-api, federated rules, and the weights of verified mistakes."""

import contextlib
import importlib
import io
import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from raylabel.calibration import Detections, ImagePredictions, match_image, match_set
from raylabel.dataset.annotated_set import GroundTruth
from raylabel.dataset.annotations import AnnotatedSet, read_annotations
from raylabel.masks.rle import encode_masks, mask_boxes, mask_iou
from raylabel.predictions.matching import (
    ImageToMatch,
    Outcome,
    detection_weights,
    match_images,
    match_predictions,
    verification_weights,
)

SIZE = (20, 20)
CORRECT, INCORRECT, IGNORED = Outcome.CORRECT, Outcome.INCORRECT, Outcome.IGNORED


def squares(*corners: tuple[int, int, int]) -> list[Any]:
    """Make masks of squares from (row, column, side)."""
    masks = np.zeros((len(corners), *SIZE), dtype=bool)
    for mask, (row, column, side) in zip(masks, corners, strict=True):
        mask[row : row + side, column : column + side] = True
    return encode_masks(masks)


def truth_of(masks: list[Any], classes: list[int], crowd: list[bool] | None = None) -> GroundTruth:
    return GroundTruth(
        image_size_hw=SIZE,
        boxes_xyxy=mask_boxes(masks),
        masks=tuple(masks),
        class_indices=np.array(classes, dtype=np.int32),
        is_crowd=np.array(crowd or [False] * len(masks), dtype=bool),
    )


def match(
    masks: list[Any],
    classes: list[int],
    scores: list[float],
    truth: GroundTruth,
    *,
    negative: frozenset[int] | None = None,
    not_exhaustive: frozenset[int] = frozenset(),
    iou_threshold: float = 0.5,
) -> list[int]:
    found = match_predictions(
        class_indices=np.array(classes, dtype=np.int32),
        scores=np.array(scores),
        masks=masks,
        truth=truth,
        negative_classes=negative,
        not_exhaustive_classes=not_exhaustive,
        iou_threshold=iou_threshold,
    )
    assert found.dtype == np.int8
    return found.tolist()


def test_nothing_predicted_and_nothing_true() -> None:
    assert match([], [], [], truth_of([], [])) == []
    assert match(squares((0, 0, 4)), [0], [0.5], truth_of([], [])) == [INCORRECT]


def test_one_object_is_taken_once_by_the_highest_score() -> None:
    one = squares((0, 0, 10))
    assert match(one * 3, [0, 0, 0], [0.2, 0.9, 0.9], truth_of(one, [0])) == [INCORRECT, CORRECT, INCORRECT]


def test_every_prediction_of_a_crowded_image_is_judged() -> None:
    """COCO's evaluation looks at 100 detections per image. Calibration counts them all."""
    one = squares((0, 0, 10))
    scores = np.linspace(0.1, 0.9, 150).tolist()
    assert match(one * 150, [0] * 150, scores, truth_of(one, [0])) == [INCORRECT] * 149 + [CORRECT]


def test_second_prediction_takes_the_object_that_is_left() -> None:
    # Squares of sides 9 and 10 at one corner have IoU 0.81. Both predictions prefer the larger one.
    objects = squares((0, 0, 10), (0, 0, 9))
    predictions = squares((0, 0, 10), (0, 0, 10))
    assert match(predictions, [0, 0], [0.9, 0.8], truth_of(objects, [0, 0])) == [CORRECT, CORRECT]


def test_the_threshold_itself_is_enough() -> None:
    # 10x10 inside 20x10: the IoU is exactly 0.5.
    tall = np.zeros((1, *SIZE), dtype=bool)
    tall[0, :, :10] = True
    truth = truth_of(encode_masks(tall), [0])
    assert match(squares((0, 0, 10)), [0], [0.5], truth) == [CORRECT]
    assert match(squares((0, 0, 10)), [0], [0.5], truth, iou_threshold=0.51) == [INCORRECT]
    assert match(squares((0, 0, 10)), [0], [0.5], truth_of(squares((0, 0, 10)), [0]), iou_threshold=1) == [CORRECT]


def test_classes_do_not_mix() -> None:
    one = squares((0, 0, 10))
    assert match(one, [1], [0.9], truth_of(one, [0])) == [INCORRECT]


def test_crowd_regions_absorb_any_number_but_objects_come_first() -> None:
    truth = truth_of(squares((0, 0, 20), (0, 0, 6)), [0, 0], [True, False])
    predictions = squares((0, 0, 6), (8, 8, 5), (10, 10, 5))
    assert match(predictions, [0, 0, 0], [0.9, 0.8, 0.7], truth) == [CORRECT, IGNORED, IGNORED]
    assert match(predictions, [1, 1, 1], [0.9, 0.8, 0.7], truth) == [INCORRECT] * 3


def test_federated_classes() -> None:
    truth = truth_of(squares((0, 0, 10)), [0])
    far = squares((12, 12, 5))
    empty_set: frozenset[int] = frozenset()
    assert match(far, [0], [0.9], truth, negative=empty_set) == [INCORRECT], "annotated in the image: verified"
    assert match(far, [1], [0.9], truth, negative=empty_set) == [IGNORED], "nobody looked for it"
    assert match(far, [1], [0.9], truth, negative=frozenset({1})) == [INCORRECT], "someone looked and found none"
    both = squares((0, 0, 10), (12, 12, 5))
    found = match(both, [0, 0], [0.9, 0.8], truth, negative=empty_set, not_exhaustive=frozenset({0}))
    assert found == [CORRECT, IGNORED]


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


def test_no_image() -> None:
    assert match_images([]).shape == (0,)


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


def federated_set(tmp_path: Path) -> AnnotatedSet:
    """Make 10 images: class 0 in 2 and verified absent in 4, class 1 in 1 and never verified, class 2 in none."""
    negatives = {2: [10], 3: [10], 4: [10], 5: [10], 6: [12]}
    square = [[0, 0, 0, 5, 5, 5, 5, 0]]
    annotations = [(0, 10), (0, 10), (1, 10), (1, 11)]
    content = {
        "images": [
            {
                "id": image,
                "file_name": f"{image}.jpg",
                "height": 20,
                "width": 20,
                "neg_category_ids": negatives.get(image, []),
                "not_exhaustive_category_ids": [],
            }
            for image in range(10)
        ],
        "categories": [{"id": one, "name": str(one)} for one in (10, 11, 12)],
        "annotations": [
            {"id": place, "image_id": image, "category_id": category, "segmentation": square, "bbox": [0, 0, 5, 5]}
            | {"area": 25, "iscrowd": 0}
            for place, (image, category) in enumerate(annotations, start=1)
        ],
    }
    path = tmp_path / "federated.json"
    path.write_text(json.dumps(content))
    return read_annotations(str(path))


def test_verification_weights(tmp_path: Path) -> None:
    # Class 0: (10 - 2) / 4. Class 1: never verified. Class 2: (10 - 0) / 1.
    assert verification_weights(federated_set(tmp_path)).tolist() == [2.0, 1.0, 10.0]


def test_a_class_that_is_listed_as_absent_beside_its_objects_keeps_weight_one(tmp_path: Path) -> None:
    """Such lists contradict the annotations. Ten images are verified to be without the class, and eight are."""
    annotated = federated_set(tmp_path)
    images = tuple(replace(image, negative_classes=frozenset([0])) for image in annotated.images)
    assert verification_weights(replace(annotated, images=images)).tolist() == [1.0, 1.0, 1.0]


def test_fully_annotated_sets_have_weight_one(shared_data: Callable[[str], Path]) -> None:
    annotated = read_annotations(str(shared_data("external_detector") / "instances.json"))
    assert verification_weights(annotated).tolist() == [1.0] * 80


def test_only_mistakes_that_negative_classes_verified_are_weighted() -> None:
    weights = detection_weights(
        np.array([INCORRECT, INCORRECT, CORRECT, IGNORED], dtype=np.int8),
        np.array([0, 1, 0, 0]),
        np.array([2.0, 3.0]),
        np.array([1]),
    )
    assert weights.tolist() == [2.0, 1.0, 1.0, 1.0], "class 1 is annotated in the image: its mistakes count once"


def test_weights_undo_federated_selection() -> None:
    """Accuracy from verified mistakes alone is too high. With weights it is right on average."""
    rng = np.random.default_rng(0)
    num_images, is_present = 4000, rng.random(4000) < 0.2
    is_verified = ~is_present & (rng.random(num_images) < 0.1)
    # One detection per image, correct exactly if the image has the object.
    weight = (num_images - is_present.sum()) / is_verified.sum()
    naive = is_present.sum() / (is_present.sum() + is_verified.sum())
    outcomes = np.where(is_present, CORRECT, INCORRECT)[is_present | is_verified]
    weights = np.concatenate(
        [
            detection_weights(
                np.array([one], np.int8), np.array([0]), np.array([weight]), frozenset({0} if one else ())
            )
            for one in outcomes
        ]
    )
    weighted = weights[outcomes == CORRECT].sum() / weights.sum()
    assert naive > 0.6
    assert weighted == pytest.approx(is_present.mean(), abs=1e-9)
