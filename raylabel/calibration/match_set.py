"""Matching a whole annotated set at once."""

from collections.abc import Mapping

from raylabel.calibration.detections import Detections, ImagePredictions, match_image
from raylabel.calibration.verification import weigh_by_verification
from raylabel.dataset.annotations import AnnotatedSet
from raylabel.matching import verification_weights


def match_set(
    annotated: AnnotatedSet, predictions: Mapping[int, ImagePredictions], *, iou_threshold: float = 0.5
) -> Detections:
    """Match and weigh the predictions of a whole set; `image_indices` are rows of the set, in ascending order.

    Args:
        annotated: the set of the true objects.
        predictions: keyed by the images' places in `annotated.images`; an image that is left out has none.
        iou_threshold: mask IoU from which a prediction can be correct.
    """
    class_weights = verification_weights(annotated)
    parts = [
        match_image(annotated, row, predictions[row], class_weights=class_weights, iou_threshold=iou_threshold)
        for row in sorted(predictions)
    ]
    return weigh_by_verification(Detections.concat([Detections.empty(annotated.num_classes), *parts]), annotated)
