"""Which predictions are right: one-to-one matching to the true objects, with crowd regions and federated labels."""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from raylabel.dataset.annotations import AnnotatedSet, GroundTruth
from raylabel.masks import Rle, mask_iou

_MAX_IOU_THRESHOLD = 1 - 1e-10
"""pycocotools' bound: a threshold of 1 must not fail on rounding."""


class Outcome(IntEnum):
    """What the truth says of a detection; the numbers are those of the stored tables."""

    INCORRECT = 0
    CORRECT = 1
    IGNORED = 2


def match_predictions(
    *,
    class_indices: NDArray[np.integer],
    scores: NDArray[np.floating],
    masks: Sequence[Rle],
    truth: GroundTruth,
    negative_classes: frozenset[int] | None,
    not_exhaustive_classes: frozenset[int] = frozenset(),
    iou_threshold: float = 0.5,
) -> NDArray[np.int8]:
    """Match one image's predictions to its true objects.

    Per class, from the highest score down (ties in the order given), a prediction takes the still free true object
    with the highest mask IoU and is correct where that reaches the threshold. One that takes no object is ignored
    where it covers a crowd region of its class (intersection over its own area reaches the threshold), where the class
    is neither annotated in the image nor in `negative_classes`, or where the class is in `not_exhaustive_classes`.
    Everything else is incorrect.

    Args:
        class_indices: (N,) predicted classes.
        scores: (N,) scores; only their order matters.
        masks: N masks of the image's size.
        truth: the image's annotations.
        negative_classes: classes that were looked for in the image and are absent; None where every class was
            looked for (COCO).
        not_exhaustive_classes: classes of which only some objects are annotated in the image.
        iou_threshold: mask IoU from which a match counts, in [0, 1].

    Returns:
        (N,) numbers of `Outcome`.

    Source: COCO's and LVIS's evaluation (pycocotools `COCOeval`, lvis-api `LVISEval`), at one threshold and all areas.
    """
    outcomes = np.full(len(class_indices), Outcome.INCORRECT, dtype=np.int8)
    threshold = min(iou_threshold, _MAX_IOU_THRESHOLD)
    for class_index in np.unique(class_indices):
        rows = np.flatnonzero(class_indices == class_index)
        rows = rows[np.argsort(-np.asarray(scores)[rows], kind="stable")]
        objects = np.flatnonzero(truth.class_indices == class_index)
        is_verified = len(objects) > 0 or negative_classes is None or int(class_index) in negative_classes
        if not is_verified or int(class_index) in not_exhaustive_classes:
            outcomes[rows] = Outcome.IGNORED
        if len(objects) == 0:
            continue
        is_crowd = truth.is_crowd[objects]
        iou = mask_iou([masks[int(row)] for row in rows], [truth.masks[one] for one in objects], list(is_crowd))
        outcomes[rows[np.any(iou[:, is_crowd] >= threshold, axis=1)]] = Outcome.IGNORED
        outcomes[rows[_take_greedily(iou[:, ~is_crowd], threshold)]] = Outcome.CORRECT
    return outcomes


def _take_greedily(iou: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """Whether each row, in order, gets a free column of at least `threshold`; of equal columns the last, as in COCO."""
    is_taken = np.zeros(iou.shape[0], dtype=bool)
    if iou.shape[1] == 0:
        return is_taken
    free_iou = iou.copy()
    for row in np.flatnonzero(iou.max(axis=1) >= threshold):
        best = iou.shape[1] - 1 - int(np.argmax(free_iou[row, ::-1]))
        if free_iou[row, best] >= threshold:
            is_taken[row] = True
            free_iou[:, best] = -1.0
    return is_taken


def verification_weights(annotated: AnnotatedSet) -> NDArray[np.float64]:
    """How many images without a class each verified one stands for, shape (num_classes,), each >= 1.

    Federated annotators look for a class in few images only. Right detections are always counted, wrong ones only
    where someone looked, so plain accuracy is too high. Horvitz-Thompson: a wrong detection in an image that was
    verified through its negative classes counts

        number of images without the class / number of images verified to be without it

    times. An image is without a class where the class is not annotated in it: the formula takes the annotated
    images to be all that have the class. Fully annotated sets, and classes that no image was verified for, get 1.

    Source: Horvitz and Thompson 1952; its use for federated detection labels is ours.
    """
    weights = np.ones(annotated.num_classes)
    if not annotated.is_federated:
        return weights
    num_verified = np.zeros(annotated.num_classes)
    for image in annotated.images:
        num_verified[list(image.negative_classes)] += 1
    num_without_class = len(annotated.images) - annotated.class_image_counts()
    is_known = num_verified > 0
    weights[is_known] = np.maximum(num_without_class[is_known] / num_verified[is_known], 1.0)
    return weights


def detection_weights(
    outcomes: NDArray[np.int8],
    class_indices: NDArray[np.integer],
    class_weights: NDArray[np.float64],
    annotated_classes: frozenset[int] | NDArray[np.integer],
) -> NDArray[np.float64]:
    """Weight of each detection of one image, shape (N,): the class's where it is incorrect and only the image's
    negative classes verified it, else 1.

    Args:
        outcomes: (N,) from `match_predictions`.
        class_indices: (N,) predicted classes.
        class_weights: (num_classes,) from `verification_weights`.
        annotated_classes: classes with an annotation in the image.
    """
    is_annotated = np.isin(class_indices, list(annotated_classes))
    return np.where((outcomes == Outcome.INCORRECT) & ~is_annotated, class_weights[class_indices], 1.0)
