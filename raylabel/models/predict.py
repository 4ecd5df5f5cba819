"""Predicting with the mask quality that the config asks for."""

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
    """Predict the objects of each image, see `Segmenter.predict`.

    Args:
        segmenter: model in evaluation mode.
        images: (3, H, W) float in [0, 1] each.
        score_threshold: least raw score.
        max_per_image: most objects per image.
        mask_quality: `probability` keeps the segmenter's: the mean mask probability inside the mask. `agreement`
            predicts the mirrored image too: the quality of a mask is its highest IoU with a mask found there, whatever
            the class.
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
