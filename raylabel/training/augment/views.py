"""Augmentation of training images: weak for labelled images, strong for the student's view of pool images.

Every random choice comes from the given NumPy generator, so a batch depends only on its seed.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as image_ops

from raylabel.config import StrongViewConfig, ViewConfig
from raylabel.models.segmenter import Target
from raylabel.training.augment.scale_jitter import jitter_scale

Augment = Callable[[Tensor, Target, np.random.Generator], tuple[Tensor, Target]]
"""Maps an image, (3, H, W) float32 in [0, 1], and its objects to an augmented image and its objects."""

COLOUR_CHANCE = 0.8
HUE_SHARE = 0.05
BLUR_SIGMA = (0.1, 1.0)
NUM_CUTOUTS = 2
CUTOUT_SIDE = (0.1, 0.25)


def no_augmentation(image: Tensor, target: Target, rng: np.random.Generator) -> tuple[Tensor, Target]:
    """Return the image and its objects unchanged."""
    return image, target


def view(settings: ViewConfig) -> Augment:
    """Make the augmentation that the settings describe."""
    return partial(_augment, settings=settings)


def _augment(image: Tensor, target: Target, rng: np.random.Generator, settings: ViewConfig) -> tuple[Tensor, Target]:
    if rng.random() < settings.flip:
        image, target = flip(image, target)
    if (settings.min_scale, settings.max_scale, settings.output_size) != (1, 1, None):
        scale = rng.uniform(settings.min_scale, settings.max_scale)
        image, target = jitter_scale(image, target, rng, scale=scale, output_size=settings.output_size)
    if settings.colour and rng.random() < COLOUR_CHANCE:
        image = _jitter_colours(image, rng, settings.colour)
    if settings.blur and rng.random() < settings.blur:
        image = image_ops.gaussian_blur(image, kernel_size=[5, 5], sigma=[rng.uniform(*BLUR_SIGMA)])
    if settings.cutout and rng.random() < settings.cutout:
        image = _cut_out(image, rng)
    return image, target


weak_augmentation = view(ViewConfig())
strong_augmentation = view(StrongViewConfig())


def flip(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Mirror the pixels, boxes and masks left to right."""
    boxes = target.boxes_xyxy.clone()
    boxes[:, [0, 2]] = image.shape[-1] - target.boxes_xyxy[:, [2, 0]]
    return image.flip(-1), replace(target, boxes_xyxy=boxes, masks_NHW=target.masks_NHW.flip(-1))


def _jitter_colours(image: Tensor, rng: np.random.Generator, strength: float) -> Tensor:
    changes = [
        (image_ops.adjust_brightness, rng.uniform(1 - strength, 1 + strength)),
        (image_ops.adjust_contrast, rng.uniform(1 - strength, 1 + strength)),
        (image_ops.adjust_saturation, rng.uniform(1 - strength, 1 + strength)),
        (image_ops.adjust_hue, rng.uniform(-HUE_SHARE * strength, HUE_SHARE * strength)),
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
