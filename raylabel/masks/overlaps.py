"""Overlaps of all masks of one image by a sweep over their runs.

pycocotools compares all runs of two masks, for every two masks whose boxes touch. The sweep only visits two runs that
share a pixel, and works on numbers that NumPy holds.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raylabel.masks.rle import Rle
from raylabel.masks.rle_check import decode_runs

_PAIRS_AT_A_TIME = 1 << 15
"""Large enough to make NumPy calls cheap, small enough for the arrays to stay in the cache."""


def pairwise_iou(masks: Sequence[Rle]) -> NDArray[np.float64]:
    """Compute the intersection over union of every two masks of one image, shape (N, N).

    The values are those of `mask_iou` without crowd regions, to the last bit.

    Args:
        masks: sound masks of equal size.
    """
    if not masks:
        return np.zeros((0, 0))
    both = _intersections(masks)
    areas = both.diagonal()
    union = areas[:, None] + areas[None, :] - both
    return np.divide(both, union, out=np.zeros_like(both), where=both > 0)


def _intersections(masks: Sequence[Rle]) -> NDArray[np.float64]:
    """Count the pixels that every two masks share. The diagonal holds the areas."""
    num_masks = len(masks)
    starts, ends, owners = _sorted_runs(masks)
    num_after = np.searchsorted(starts, ends) - np.arange(1, len(starts) + 1)  # later runs that start before the end
    pairs_before = np.concatenate([[0], np.cumsum(num_after)])
    shared = np.zeros(num_masks**2)
    low = 0
    while low < len(starts):
        limit = np.searchsorted(pairs_before, pairs_before[low] + _PAIRS_AT_A_TIME, side="right") - 1
        high = max(low + 1, int(limit))
        num = num_after[low:high]
        # Runs low + 1, low + 2, ... for the first run, then those for the next run, and so on.
        later = np.repeat(np.arange(low + 1, high + 1) - pairs_before[low:high], num)
        later += np.arange(pairs_before[low], pairs_before[high])
        pixels = np.repeat(ends[low:high], num)
        np.minimum(pixels, ends[later], out=pixels)
        pixels -= starts[later]
        pairs = np.repeat(owners[low:high] * num_masks, num)
        pairs += owners[later]
        shared += np.bincount(pairs, weights=pixels, minlength=num_masks**2)
        low = high
    square = shared.reshape(num_masks, num_masks)
    return square + square.T + np.diag(np.bincount(owners, weights=ends - starts, minlength=num_masks))


def _sorted_runs(masks: Sequence[Rle]) -> tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.int64]]:
    """Return start, end and mask of each run of foreground, by the start. Pixels are column-major."""
    background, foreground, num_pairs = decode_runs([mask["counts"] for mask in masks])
    height, width = masks[0]["size"]
    owners = np.repeat(np.arange(len(masks)), num_pairs)
    # The runs of each mask sum to the image.
    ends = np.cumsum(background + foreground) - owners * height * width
    places = np.flatnonzero(foreground)
    starts = ends[places] - foreground[places]
    by_start = np.argsort(starts, kind="stable")  # merges the runs of the masks, which are in order already
    places = places[by_start]
    # Small integers, because most of the time goes into moving them.
    small = np.min_scalar_type(height * width)
    return starts[by_start].astype(small), ends[places].astype(small), owners[places]
