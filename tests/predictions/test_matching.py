"""The rules of matching, on a few squares."""

from typing import Any

import numpy as np

from raylabel.dataset.annotated_set import GroundTruth
from raylabel.masks.rle import encode_masks, mask_boxes
from raylabel.predictions.matching import match_images, match_predictions
from squares import CORRECT, IGNORED, INCORRECT, SIZE, squares


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


def test_no_image() -> None:
    assert match_images([]).shape == (0,)
