"""Masks inside their boxes, decoded without making the whole image. `encode_boxes` is the way back."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raylabel.masks.rle import Rle, mask_boxes
from raylabel.masks.rle_check import decode_runs


def decode_boxes(masks: Sequence[Rle]) -> tuple[list[NDArray[np.bool_]], list[tuple[int, int]]]:
    """Decode the masks of one image inside their tight boxes.

    Args:
        masks: N sound masks.

    Returns:
        N boolean arrays (h, w), and the top and left of each. An empty mask has (0, 0) at (0, 0).

    Examples:
        >>> import numpy as np
        >>> import raylabel as rl
        >>> masks = np.zeros((1, 4, 6), dtype=bool)
        >>> masks[0, 1:3, 2:5] = True
        >>> [inside], corners = decode_boxes(rl.encode_masks(masks))
        >>> inside.shape, corners
        ((2, 3), [(1, 2)])
    """
    background, foreground, num_pairs = decode_runs([mask["counts"] for mask in masks])
    runs = np.stack([background, foreground], axis=1)
    boxes, corners, end = [], [], 0
    for mask, (left, top, right, bottom), num in zip(
        masks, mask_boxes(masks).astype(int).tolist(), num_pairs.tolist(), strict=True
    ):
        height = mask["size"][0]
        # The columns of the box hold all runs of foreground. Runs are column-major.
        of_mask = runs[end : end + num].ravel()
        end += num
        columns = np.zeros((right - left) * height, dtype=bool)
        if len(columns):
            of_mask[0] -= left * height
            of_mask = of_mask[: np.flatnonzero(of_mask[1::2])[-1] * 2 + 2]  # without the background behind
            is_inside = np.repeat(np.arange(len(of_mask)) % 2 == 1, of_mask)
            columns[: len(is_inside)] = is_inside
        boxes.append(np.ascontiguousarray(columns.reshape(right - left, height)[:, top:bottom].T))
        corners.append((top, left))
    return boxes, corners
