"""What a segmenter says of images, with the mask quality that is asked for."""

from dataclasses import replace
from functools import partial

import numpy as np
from torch import Tensor

from raylabel.config import MaskQuality
from raylabel.masks.rle import mask_iou, mirror_masks
from raylabel.models.segmenter import Segmenter
from raylabel.predictions.instances import Instances


def predict_images(
    segmenter: Segmenter,
    images: list[Tensor],
    *,
    score_threshold: float,
    max_per_image: int,
    mask_quality: MaskQuality = "probability",
) -> list[Instances]:
    """Predictions of each image, as of `Segmenter.predict`.

    Args:
        segmenter: in evaluation mode.
        images: (3, H, W) float in [0, 1] each.
        score_threshold, max_per_image: limits of what is predicted.
        mask_quality: the segmenter's own, the mean mask probability inside the mask; or `agreement`, each mask's
            highest IoU with one that the segmenter finds in the mirrored image, of whatever class.
    """
    predict = partial(segmenter.predict, score_threshold=score_threshold, max_per_image=max_per_image)
    found = predict(images)
    if mask_quality == "probability":
        return found
    mirrored = predict([image.flip(-1) for image in images])
    return [_agreeing(one, other) for one, other in zip(found, mirrored, strict=True)]


def _agreeing(found: Instances, mirrored: Instances) -> Instances:
    iou = mask_iou(found.masks, mirror_masks(mirrored.masks), [False] * len(mirrored))
    return replace(found, mask_quality=iou.max(axis=1, initial=0.0).astype(np.float32))
