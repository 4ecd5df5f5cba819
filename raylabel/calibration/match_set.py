"""Matching of a whole annotated set."""

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from raylabel.calibration.detections import Detections, ImagePredictions, match_rows
from raylabel.calibration.verification import weigh_by_verification
from raylabel.dataset.annotations import AnnotatedSet
from raylabel.predictions.matching import verification_weights
from raylabel.threads import map_on_threads

_MASKS_AT_A_TIME = 1000
"""Masks per batch. This many keep all CPUs busy. More would delay the preparation of the next batch, and the objects
that hotcoco returns would start a collection of Python's whole memory."""


def match_set(
    annotated: AnnotatedSet,
    predictions: Mapping[int, ImagePredictions],
    *,
    iou_threshold: float = 0.5,
    with_context: bool = True,
) -> Detections:
    """Match and weigh the predictions of a whole set. `image_indices` are rows of the set, in ascending order.

    Args:
        annotated: the set with the true objects.
        predictions: index in `annotated.images` -> predictions. A missing image has no prediction.
        iou_threshold: smallest mask IoU at which a prediction can be correct.
        with_context: see `match_image`.
    """
    weights = verification_weights(annotated)
    parts = match_batches(
        annotated, predictions, class_weights=weights, iou_threshold=iou_threshold, with_context=with_context
    )
    return weigh_by_verification(Detections.concat([Detections.empty(annotated.num_classes), *parts]), annotated)


def match_batches(
    annotated: AnnotatedSet,
    predictions: Mapping[int, ImagePredictions],
    *,
    class_weights: NDArray[np.float64],
    iou_threshold: float = 0.5,
    with_context: bool = True,
    num_threads: int | None = None,
) -> Iterator[Detections]:
    """Match the predictions of a set, a batch of images at a time. See `match_image` and `map_on_threads`."""
    match = partial(
        match_rows, annotated, class_weights=class_weights, iou_threshold=iou_threshold, with_context=with_context
    )
    return map_on_threads(match, _batches(predictions), num_threads=num_threads)


def _batches(predictions: Mapping[int, ImagePredictions]) -> list[dict[int, ImagePredictions]]:
    """Split the images, sorted by row, into batches of about `_MASKS_AT_A_TIME` masks."""
    batches, num_masks = list[dict[int, ImagePredictions]](), _MASKS_AT_A_TIME
    for row in sorted(predictions):
        if num_masks >= _MASKS_AT_A_TIME:
            batches.append({})
            num_masks = 0
        batches[-1][row] = predictions[row]
        num_masks += len(predictions[row].masks)
    return batches
