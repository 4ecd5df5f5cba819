"""Matching a whole annotated set at once."""

from collections.abc import Mapping
from functools import partial

from raylabel.calibration.detections import Detections, ImagePredictions, match_rows
from raylabel.calibration.verification import weigh_by_verification
from raylabel.dataset.annotations import AnnotatedSet
from raylabel.predictions.matching import verification_weights
from raylabel.threads import map_on_threads

_MASKS_AT_A_TIME = 1000
"""Enough for all CPUs to have work in a batch, few enough for one to be prepared while another is worked on, and for
the objects that hotcoco answers with not to set off a collection of Python's whole memory."""


def match_set(
    annotated: AnnotatedSet,
    predictions: Mapping[int, ImagePredictions],
    *,
    iou_threshold: float = 0.5,
    with_context: bool = True,
) -> Detections:
    """Match and weigh the predictions of a whole set; `image_indices` are rows of the set, in ascending order.

    Args:
        annotated: the set of the true objects.
        predictions: keyed by the images' places in `annotated.images`; an image that is left out has none.
        iou_threshold: mask IoU from which a prediction can be correct.
        with_context: as of `match_image`.
    """
    match = partial(
        match_rows,
        annotated,
        class_weights=verification_weights(annotated),
        iou_threshold=iou_threshold,
        with_context=with_context,
    )
    parts = [Detections.empty(annotated.num_classes), *map_on_threads(match, _batches(predictions))]
    return weigh_by_verification(Detections.concat(parts), annotated)


def _batches(predictions: Mapping[int, ImagePredictions]) -> list[dict[int, ImagePredictions]]:
    """Images by row, in batches of `_MASKS_AT_A_TIME` masks or a little more."""
    batches, num_masks = list[dict[int, ImagePredictions]](), _MASKS_AT_A_TIME
    for row in sorted(predictions):
        if num_masks >= _MASKS_AT_A_TIME:
            batches.append({})
            num_masks = 0
        batches[-1][row] = predictions[row]
        num_masks += len(predictions[row].masks)
    return batches
