"""Predicting with the mask quality that the config asks for."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
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


def predict_pixels(
    segmenter: Segmenter, batch_NHW3: Tensor, device: torch.device, how: Mapping[str, Any]
) -> list[Instances]:
    """Predict images of one size as they are decoded, without gradient. On CUDA in mixed precision.

    Args:
        segmenter: model in evaluation mode, on the device.
        batch_NHW3: uint8 RGB, on any device.
        device: the model's device.
        how: the other arguments of `predict_images`.
    """
    # Bytes go to the device, because floats are four times as large. Pinned memory avoids a wait.
    on_device = batch_NHW3.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)
    with torch.inference_mode(), torch.autocast(device.type, enabled=device.type == "cuda"):
        return predict_images(segmenter, list(on_device), **how)


def _agreeing(found: Instances, mirrored: Instances) -> Instances:
    iou = mask_iou(found.masks, mirror_masks(mirrored.masks), [False] * len(mirrored))
    return replace(found, mask_quality=iou.max(axis=1, initial=0.0).astype(np.float32))
