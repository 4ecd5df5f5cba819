"""Matching of a whole set: in any order of its images, in any batches, and with the settings of the match."""

import importlib
from collections.abc import Iterable
from dataclasses import fields

import numpy as np
import pytest

from raylabel.calibration import Detections, ImagePredictions, match_set
from raylabel.dataset.annotated_set import AnnotatedSet, Category
from raylabel.dataset.image_records import ImageRecord
from raylabel.masks.rle import Rle, encode_masks
from raylabel.predictions.matching import Outcome

NUM_IMAGES, SIZE = 5, (12, 12)


def bar(width: int) -> Rle:
    """Make the mask of the first columns."""
    mask = np.zeros((1, *SIZE), bool)
    mask[0, :, :width] = True
    return encode_masks(mask)[0]


def annotated_set(*, is_federated: bool = False) -> AnnotatedSet:
    """Each image has one object of class 0, 10 columns wide.

    In a federated set it is annotated in every other image, and class 1 is known to be absent from the first.
    """
    counts = bar(10)["counts"].decode()
    one = {"category_id": 4, "iscrowd": 0, "segmentation": {"size": list(SIZE), "counts": counts}}
    return AnnotatedSet.of_records(
        images=tuple(
            ImageRecord(
                image_id=row,
                file_name=f"{row}.png",
                uri="",
                height=SIZE[0],
                width=SIZE[1],
                negative_classes=frozenset([1] if is_federated and row == 0 else []),
            )
            for row in range(NUM_IMAGES)
        ),
        categories=(Category(category_id=4, name="a"), Category(category_id=6, name="b")),
        annotations=tuple(() if is_federated and row % 2 else ({**one, "id": row},) for row in range(NUM_IMAGES)),
        is_federated=is_federated,
    )


def predictions(rows: Iterable[int]) -> dict[int, ImagePredictions]:
    """In image r the detector finds a bar of 10 - r columns with score r / 10, and one of class 1."""
    return {row: ImagePredictions(np.array([0, 1]), np.array([row / 10, 0.9]), [bar(10 - row), bar(2)]) for row in rows}


def assert_same(first: Detections, second: Detections) -> None:
    for field in fields(Detections):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name), err_msg=field.name)


@pytest.mark.parametrize("masks_at_a_time", [1, 3, 1000])
def test_outcomes_belong_to_their_images_in_any_order(masks_at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module(match_set.__module__), "_MASKS_AT_A_TIME", masks_at_a_time)
    found = match_set(annotated_set(), predictions(range(5)))
    assert found.image_indices.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    np.testing.assert_allclose(found.raw_scores[::2], [0, 0.1, 0.2, 0.3, 0.4])
    assert found.known_outcomes.tolist() == [Outcome.CORRECT, Outcome.INCORRECT] * 5
    assert found.mask_areas is not None
    assert found.mask_areas[::2].tolist() == [120, 108, 96, 84, 72]
    assert_same(match_set(annotated_set(), predictions([3, 0, 4, 1, 2])), found)
    few = match_set(annotated_set(), predictions([4, 1]))
    assert few.image_indices.tolist() == [1, 1, 4, 4]


@pytest.mark.parametrize(("iou_threshold", "num_correct"), [(0.5, 5), (0.75, 3), (0.9, 2), (1.0, 1)])
def test_the_threshold_decides_what_is_right(iou_threshold: float, num_correct: int) -> None:
    """The IoU in image r is (10 - r) / 10."""
    found = match_set(annotated_set(), predictions(range(5)), iou_threshold=iou_threshold)
    assert found.is_correct.sum() == num_correct


def test_context_is_computed_given_or_left_out() -> None:
    assert match_set(annotated_set(), predictions([0])).context is not None
    assert match_set(annotated_set(), predictions([0]), with_context=False).context is None
    given = predictions([0])[0]._replace(context=np.full((2, 20), 0.5, np.float32))
    found = match_set(annotated_set(), {0: given})
    assert found.context is not None
    assert (found.context == 0.5).all()


def test_detections_of_a_federated_set_are_weighed_over_all_its_images() -> None:
    """One wrong detection of class 1 stands for those in the four images in which nobody looked for the class."""
    annotated = annotated_set(is_federated=True)
    found = match_set(annotated, predictions(range(5)))
    is_other = found.class_indices == 1
    assert found.known_outcomes[is_other].tolist() == [Outcome.INCORRECT] + [Outcome.IGNORED] * 4
    assert found.weights[is_other] == pytest.approx([5, 1, 1, 1, 1])
    assert found.known_outcomes[~is_other].tolist() == [Outcome.CORRECT, Outcome.IGNORED] * 2 + [Outcome.CORRECT]
    # The right ones stand for some of those that nobody checked. Their expected number is between 3 and 5.
    weights = found.weights[~is_other]
    assert weights[0] == weights[2] == weights[4]
    assert 1.01 < weights[0] < 5 / 3
    assert match_set(annotated_set(), predictions(range(5))).weights.tolist() == [1] * 10
