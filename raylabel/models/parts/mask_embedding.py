"""Embeddings of instances: averages of a feature map over their masks."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_SUM = 1e-6


def average_over_masks(
    features: Tensor, masks: Sequence[Tensor], seen_sizes_hw: Sequence[tuple[int, int]], padded_size_hw: tuple[int, int]
) -> list[Tensor]:
    """Average a feature map over the masks of each image and scale the means to unit length.

    Args:
        features: (B, C, h, w) over the padded images.
        masks: (N, H, W) per image, in the image's original size.
        seen_sizes_hw: size of each image as the network saw it, before padding.
        padded_size_hw: size of the batch with padding.

    Returns:
        (N, C) float32 per image.
    """
    embeddings = []
    for image_features, image_masks, size in zip(features.float(), masks, seen_sizes_hw, strict=True):
        if len(image_masks) == 0:
            embeddings.append(image_features.new_zeros(0, len(image_features)))
            continue
        seen = F.interpolate(image_masks[:, None].float(), size=size, mode="area")
        padded = F.pad(seen, (0, padded_size_hw[1] - size[1], 0, padded_size_hw[0] - size[0]))
        shares = F.adaptive_avg_pool2d(padded, image_features.shape[-2:])[:, 0]
        sums = torch.einsum("nhw,chw->nc", shares, image_features)
        means = sums / shares.sum(dim=(1, 2)).clamp_min(SMALLEST_SUM)[:, None]
        embeddings.append(F.normalize(means, dim=1))
    return embeddings
