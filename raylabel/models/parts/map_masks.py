"""Masks that a network gives as maps over the whole image, resized to the image."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from raylabel.models.parts.mask_parts import MaskPart, assemble_instances, mask_part
from raylabel.predictions.instances import Instances


def map_instances(
    mask_logits: NDArray[np.float32], probs: Tensor, scales: tuple[float, float], image_size_hw: tuple[int, int]
) -> Instances:
    """Make the Instances of one image from its mask maps.

    Args:
        mask_logits: (N, h, w), see `upsample_inside`. Each map has a positive cell.
        probs: (N, num_classes + 1) by falling score, background last.
        scales: map cells per image pixel, down and across.
        image_size_hw: size of the image.
    """
    parts = [mask_part(*upsample_inside(logits, scales, image_size_hw)) for logits in mask_logits]
    boxes = np.array([_box(part) for part in parts], np.float32).reshape(-1, 4)
    return assemble_instances(parts, boxes, probs.numpy().astype(np.float32), image_size_hw)


def _box(part: MaskPart | None) -> tuple[int, int, int, int]:
    if part is None:
        return (0, 0, 0, 0)
    rows, columns = (np.flatnonzero(part.is_mask.any(axis=axis)) for axis in (1, 0))
    top, left = part.corner
    return (left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1)


def upsample_inside(
    logits: NDArray[np.float32], scales: tuple[float, float], image_size_hw: tuple[int, int]
) -> tuple[NDArray[np.float32], tuple[slice, slice]]:
    """Resize a mask map to the image, only where the mask may be foreground.

    The values are those of `F.interpolate(..., mode="bilinear", align_corners=False)` on the logits. Only the part
    around positive logits is computed, so a hundred masks of a large image stay cheap.

    Args:
        logits: (h, w) with a positive cell. The map may extend beyond the image because the batch is padded.
        scales: map cells per image pixel, down and across.
        image_size_hw: size of the image.

    Returns:
        Probabilities of the part, and its rows and columns in the image.
    """
    matrices, places = [], []
    for axis in (0, 1):
        cells = np.flatnonzero((logits > 0).any(axis=1 - axis))
        # Bilinear values are positive only between a positive cell and its neighbours.
        first = max(int((cells[0] - 0.5) / scales[axis]), 0)
        last = min(int(np.ceil((cells[-1] + 1.5) / scales[axis])), image_size_hw[axis])
        matrix = _weights(first, max(last, first), scales[axis], logits.shape[axis])
        matrices.append(matrix)
        places.append(slice(first, first + len(matrix)))
    down, across = matrices
    inside = down @ logits @ across.T
    return 1 / (1 + np.exp(-inside.clip(-80, 80))), (places[0], places[1])


def _weights(first: int, last: int, scale: float, num_cells: int) -> NDArray[np.float32]:
    """Compute the (last - first, num_cells) weights of bilinear interpolation along one axis."""
    at = np.clip((np.arange(first, last) + 0.5) * scale - 0.5, 0, num_cells - 1)
    low = np.minimum(at.astype(np.int64), num_cells - 1)
    high = np.minimum(low + 1, num_cells - 1)
    share = (at - low).astype(np.float32)
    weights = np.zeros((len(at), num_cells), np.float32)
    rows = np.arange(len(at))
    weights[rows, low] += 1 - share
    weights[rows, high] += share
    return weights


def mask_iou_matrix(first: Tensor, second: Tensor) -> Tensor:
    """Compute the (N, M) IoU of boolean masks (N, P) and (M, P)."""
    first, second = first.float(), second.float()
    inner = first @ second.T
    union = first.sum(dim=1)[:, None] + second.sum(dim=1)[None] - inner
    return inner / union.clamp_min(1.0)
