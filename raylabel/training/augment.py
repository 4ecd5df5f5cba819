"""Augmentation of training images: weak on labelled images, strong on the student's view of the pool.

Every random choice comes from the numpy generator that is handed in, so a batch depends on its seed alone.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as image_ops

from raylabel.models.protocols import Target

Augment = Callable[[Tensor, Target, np.random.Generator], tuple[Tensor, Target]]
"""Image (3, H, W) float32 in [0, 1] and its objects -> the same, changed."""

JITTER = 0.4
HUE_JITTER = 0.02
BLUR_SIGMA = (0.1, 1.0)
NUM_CUTOUTS = 2
CUTOUT_SIDE = (0.1, 0.25)


def no_augmentation(image: Tensor, target: Target, rng: np.random.Generator) -> tuple[Tensor, Target]:
    """The image as it is."""
    return image, target


def weak_augmentation(image: Tensor, target: Target, rng: np.random.Generator) -> tuple[Tensor, Target]:
    """A horizontal flip in half of the cases."""
    return flip(image, target) if rng.random() < 0.5 else (image, target)


def strong_augmentation(image: Tensor, target: Target, rng: np.random.Generator) -> tuple[Tensor, Target]:
    """Flip, colour jitter, blur and cutout of the pixels; the objects are still to be found under a cutout.

    Hue is shifted a little only, as colour can be what tells classes apart.
    """
    image, target = weak_augmentation(image, target, rng)
    if rng.random() < 0.8:
        image = _jitter_colours(image, rng)
    if rng.random() < 0.3:
        image = image_ops.gaussian_blur(image, kernel_size=[5, 5], sigma=[rng.uniform(*BLUR_SIGMA)])
    if rng.random() < 0.5:
        image = _cut_out(image, rng)
    return image, target


def flip(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Mirror left and right, pixels, boxes and masks."""
    width = image.shape[-1]
    boxes = target.boxes_xyxy.clone()
    boxes[:, [0, 2]] = width - target.boxes_xyxy[:, [2, 0]]
    return image.flip(-1), replace(target, boxes_xyxy=boxes, masks_NHW=target.masks_NHW.flip(-1))


def _jitter_colours(image: Tensor, rng: np.random.Generator) -> Tensor:
    changes = [
        (image_ops.adjust_brightness, rng.uniform(1 - JITTER, 1 + JITTER)),
        (image_ops.adjust_contrast, rng.uniform(1 - JITTER, 1 + JITTER)),
        (image_ops.adjust_saturation, rng.uniform(1 - JITTER, 1 + JITTER)),
        (image_ops.adjust_hue, rng.uniform(-HUE_JITTER, HUE_JITTER)),
    ]
    for index in rng.permutation(len(changes)):
        change, amount = changes[index]
        image = change(image, amount)
    return image


def _cut_out(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Fill rectangles with uniform noise."""
    image = image.clone()
    height, width = image.shape[-2:]
    for _ in range(rng.integers(1, NUM_CUTOUTS + 1)):
        cut_height = max(1, round(height * rng.uniform(*CUTOUT_SIDE)))
        cut_width = max(1, round(width * rng.uniform(*CUTOUT_SIDE)))
        top = rng.integers(0, height - cut_height + 1)
        left = rng.integers(0, width - cut_width + 1)
        noise = rng.random((3, cut_height, cut_width), dtype=np.float32)
        image[:, top : top + cut_height, left : left + cut_width] = torch.from_numpy(noise)
    return image
