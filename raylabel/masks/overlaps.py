"""Overlaps of all masks of one image by a sweep over their runs.

pycocotools compares all runs of two masks, for every two masks whose boxes touch. The sweep only visits two runs that
share a pixel, and works on numbers that NumPy holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylabel.masks.rle import Rle
from raylabel.masks.rle_check import decode_runs

_PAIRS_AT_A_TIME = 1 << 15
"""Large enough to make NumPy calls cheap, small enough for the arrays to stay in the cache."""


@dataclass(frozen=True, kw_only=True)
class Overlaps:
    """The masks of one image that share pixels. Every two of them are two pairs.

    Attributes:
        areas: (N,) pixels of each mask.
        ones, others: (P,) rows of the masks of each pair, by `ones`, then by `others`.
        iou: (P,) intersection over union, float64.
    """

    areas: NDArray[np.float64]
    ones: NDArray[np.int64]
    others: NDArray[np.int64]
    iou: NDArray[np.float64]


def find_overlaps(masks: Sequence[Rle]) -> Overlaps:
    """Find every two masks that share a pixel, with the IoU of `mask_iou` without crowd regions, to the last bit.

    Args:
        masks: at least one sound mask, of equal size.
    """
    starts, ends, owners = _sorted_runs(masks)
    areas = np.bincount(owners, weights=ends - starts, minlength=len(masks)).astype(np.float64, copy=False)
    shared = _shared_pixels(starts, ends, owners, len(masks))
    shared += shared.T
    ones, others = np.nonzero(shared)
    both = shared[ones, others]
    return Overlaps(areas=areas, ones=ones, others=others, iou=both / (areas[ones] + areas[others] - both))


def _shared_pixels(
    starts: NDArray[np.integer], ends: NDArray[np.integer], owners: NDArray[np.int64], num_masks: int
) -> NDArray[np.float64]:
    """Count the pixels that two runs of different masks share, by the mask that starts first, shape (N, N)."""
    order = np.arange(1, len(starts) + 1)
    num_after = np.searchsorted(starts, ends) - order  # later runs that start before the end
    pairs_before = np.concatenate([[0], np.cumsum(num_after)])
    first_after, first_pairs = order - pairs_before[:-1], owners * num_masks
    shared = np.zeros(num_masks**2)
    low = 0
    while low < len(starts):
        limit = np.searchsorted(pairs_before, pairs_before[low] + _PAIRS_AT_A_TIME, side="right") - 1
        high = max(low + 1, int(limit))
        num = num_after[low:high]
        # Runs low + 1, low + 2, ... for the first run, then those for the next run, and so on.
        later = np.repeat(first_after[low:high], num)
        later += np.arange(pairs_before[low], pairs_before[high])
        pixels = np.repeat(ends[low:high], num)
        np.minimum(pixels, ends.take(later, mode="clip"), out=pixels)  # no index is clipped, the mode is the quickest
        pixels -= starts.take(later, mode="clip")
        pairs = np.repeat(first_pairs[low:high], num)
        pairs += owners.take(later, mode="clip")
        shared += np.bincount(pairs, weights=pixels, minlength=num_masks**2)
        low = high
    return shared.reshape(num_masks, num_masks)


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
