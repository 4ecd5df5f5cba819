"""Masks as COCO run-length encodings: conversion, areas, overlap.

Outside models every mask is a compressed RLE, `{"size": [height, width], "counts": bytes}`. Masks are decoded only
where pixels are needed.
"""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from raylabel.masks.rle_check import RunsError, check_runs

_RLES_AT_A_TIME = 1000
"""Large enough to make NumPy calls cheap, small enough for the arrays to stay in the cache."""


class Rle(TypedDict):
    """COCO's compressed run-length encoding of one mask, with column-major runs."""

    size: list[int]
    counts: bytes


def encode_masks(masks_NHW: NDArray[Any]) -> list[Rle]:
    """Encode binary masks of shape (N, H, W) as compressed RLE.

    Examples:
        >>> import numpy as np
        >>> import raylabel as rl
        >>> masks = np.zeros((1, 4, 6), dtype=bool)
        >>> masks[0, 1:3, 2:5] = True
        >>> rl.encode_masks(masks)
        [{'size': [4, 6], 'counts': b'9220003'}]
    """
    if len(masks_NHW) == 0:
        return []
    columns_HWN = np.asfortranarray(masks_NHW.astype(np.uint8).transpose(1, 2, 0))
    return coco_mask.encode(columns_HWN)


def decode_masks(masks: Sequence[Rle], image_size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Decode to a boolean array of shape (N, H, W), or (0, H, W) without masks."""
    if not masks:
        return np.zeros((0, *image_size_hw), dtype=bool)
    return coco_mask.decode(list(masks)).transpose(2, 0, 1).astype(bool)


def check_rle(rle: Rle) -> None:
    """Check that the runs of a compressed RLE fill its mask exactly.

    pycocotools does not check runs and would access memory outside the mask.

    Raises:
        ValueError: the runs do not decode, or do not sum to height * width.
    """
    check_runs([rle["counts"]], np.array([rle["size"][0] * rle["size"][1]]))


def first_bad_rle(rles: Sequence[Rle]) -> tuple[int, str] | None:
    """Find the first compressed RLE that `check_rle` refuses: its place and the reason, or None if all are sound.

    All RLEs are checked together, because that is far faster than one by one. Halving then locates a bad one.
    """
    for low in range(0, len(rles), _RLES_AT_A_TIME):
        part = rles[low : low + _RLES_AT_A_TIME]
        message = _fault(part)
        if message is not None:
            while len(part) > 1:
                half = len(part) // 2
                fault = _fault(part[:half])
                if fault is None:
                    low, part = low + half, part[half:]
                else:
                    part, message = part[:half], fault
            return low, _fault(part) or message
    return None


def _fault(rles: Sequence[Rle]) -> str | None:
    sizes_hw = np.array([rle["size"] for rle in rles], dtype=np.int64).reshape(-1, 2)
    try:
        check_runs([rle["counts"] for rle in rles], sizes_hw.prod(axis=1))
    except RunsError as error:
        return str(error)
    return None


def mask_areas(masks: Sequence[Rle]) -> NDArray[np.int32]:
    """Count the pixels of each mask, shape (N,)."""
    # At most 255 masks per call, because pycocotools 2.0.11 with NumPy 2 fails on more.
    parts = [coco_mask.area(list(masks[place : place + 255])) for place in range(0, len(masks), 255)]
    return np.concatenate([np.zeros(0), *parts]).astype(np.int32)


def mirror_masks(masks: Sequence[Rle]) -> list[Rle]:
    """Exchange left and right of each mask."""
    # One at a time, because all decoded masks of a large image would take the memory of a hundred images.
    return [encode_masks(decode_masks([mask], (mask["size"][0], mask["size"][1]))[:, :, ::-1])[0] for mask in masks]


def mask_boxes(masks: Sequence[Rle]) -> NDArray[np.float32]:
    """Compute tight boxes around masks: x0, y0, x1, y1 in pixels, shape (N, 4). Empty masks give zeros.

    Examples:
        >>> import numpy as np
        >>> import raylabel as rl
        >>> masks = np.zeros((2, 4, 6), dtype=bool)
        >>> masks[0, 1:3, 2:5] = True
        >>> rl.mask_boxes(rl.encode_masks(masks)).tolist()
        [[2.0, 1.0, 5.0, 3.0], [0.0, 0.0, 0.0, 0.0]]
    """
    if not masks:
        return np.zeros((0, 4), dtype=np.float32)
    boxes_xywh = np.asarray(coco_mask.toBbox(list(masks)), dtype=np.float32).reshape(-1, 4)
    boxes_xywh[:, 2:] += boxes_xywh[:, :2]
    return boxes_xywh


def mask_iou(masks: Sequence[Rle], others: Sequence[Rle], others_are_crowd: Sequence[bool]) -> NDArray[np.float64]:
    """Compute the intersection over union of every pair, shape (len(masks), len(others)).

    For a crowd region it is the intersection over the area of the mask, as in COCO's evaluation.
    """
    if not masks or not others:
        return np.zeros((len(masks), len(others)))
    return np.asarray(coco_mask.iou(list(masks), list(others), [int(crowd) for crowd in others_are_crowd]))
