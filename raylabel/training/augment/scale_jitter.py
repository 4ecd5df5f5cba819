"""Large-scale jitter: scale an image with its objects, then crop or pad it to one size."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import masks_to_boxes
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as image_ops

from raylabel.models.segmenter import Target

PADDING = 0.5


def jitter_scale(
    image: Tensor, target: Target, rng: np.random.Generator, *, scale: float, output_size: int | None = None
) -> tuple[Tensor, Target]:
    """Resize an image with its objects, then crop or pad it at a random place.

    Objects outside the crop are dropped. Boxes become the bounds of the visible masks.

    Args:
        image: (3, H, W) float32 in [0, 1].
        target: the objects of the image.
        rng: draws the place.
        scale: size of the result; 1 fits the image into the output.
        output_size: side of the square output in pixels; None keeps the size of the image.

    Source: Ghiasi et al. 2021 (arXiv 2012.07177). They pad at the right and bottom only.
    """
    height, width = image.shape[-2:]
    out_height, out_width = (output_size or height), (output_size or width)
    factor = scale * min(out_height / height, out_width / width)
    size_hw = [max(1, round(height * factor)), max(1, round(width * factor))]
    masks = target.masks_NHW.to(torch.uint8)
    if size_hw != [height, width]:
        image = image_ops.resize(image, size_hw, antialias=True)
        masks = _resize_masks(masks, size_hw)
    top, left = (
        int(rng.integers(min(0, out - size), max(0, out - size) + 1))
        for out, size in zip((out_height, out_width), size_hw, strict=True)
    )
    canvas = torch.full((3, out_height, out_width), PADDING, dtype=image.dtype)
    mask_canvas = torch.zeros(len(masks), out_height, out_width, dtype=torch.uint8)
    outside = slice(max(0, top), top + size_hw[0]), slice(max(0, left), left + size_hw[1])
    inside = (
        slice(max(0, -top), min(size_hw[0], out_height - top)),
        slice(max(0, -left), min(size_hw[1], out_width - left)),
    )
    canvas[:, *outside] = image[:, *inside]
    mask_canvas[:, *outside] = masks[:, *inside]
    return canvas, visible(replace(target, masks_NHW=mask_canvas.to(target.masks_NHW.dtype)))


def visible(target: Target) -> Target:
    """Keep the objects whose mask has a pixel. Their boxes become the bounds of their masks."""
    seen = target[torch.where(target.masks_NHW.flatten(1).any(dim=1))[0]]
    # + 1 because torchvision's boxes end at the last pixel, ours at its far edge.
    return replace(seen, boxes_xyxy=masks_to_boxes(seen.masks_NHW) + torch.tensor([0.0, 0, 1, 1]))


def _resize_masks(masks: Tensor, size_hw: list[int]) -> Tensor:
    if not len(masks):
        return masks.new_zeros(0, *size_hw)
    return image_ops.resize(masks, size_hw, interpolation=InterpolationMode.NEAREST_EXACT)
