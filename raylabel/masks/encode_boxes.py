"""COCO run lengths of masks that are given inside boxes, computed without making the whole image.

Most instances fill a small part of their image. The work here grows with the boxes, and all masks of an image are
encoded together. That is an order of magnitude faster than pasting each mask into an image and encoding the image
(`benchmarks/mask_encoding.py`).
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from raylabel.masks.rle import Rle

_PIXELS_AT_A_TIME = 1 << 22
"""Large enough to make NumPy calls cheap, small enough for the arrays to stay in the cache."""

_WORD = 8  # bytes that are looked at together for a change


def encode_boxes(
    boxes: Sequence[NDArray[np.bool_]], corners: Sequence[tuple[int, int]], image_size_hw: tuple[int, int]
) -> list[Rle]:
    """Encode the masks of one image to the same bytes as pycocotools encodes whole images.

    Args:
        boxes: N boolean arrays of any shapes (h, w), empty ones too. Masks are background outside their boxes.
        corners: top and left of each box. Boxes lie inside the image.
        image_size_hw: height and width of the image.
    """
    if not boxes:
        return []
    parts, low = [], 0
    for high in _cuts([box.size for box in boxes]):
        parts.append(_edges(boxes[low:high], corners[low:high], image_size_hw[0]))
        low = high
    edges, num_edges = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    runs, num_runs = _runs(edges, num_edges, image_size_hw[0] * image_size_hw[1])
    return [Rle(size=list(image_size_hw), counts=counts) for counts in _compress(runs, num_runs)]


def _cuts(sizes: Sequence[int]) -> Iterator[int]:
    """Cut masks into parts of at most _PIXELS_AT_A_TIME pixels or of one mask, and yield the end of each part."""
    total = 0
    for place, size in enumerate(sizes):
        if total and total + size > _PIXELS_AT_A_TIME:
            yield place
            total = 0
        total += size
    yield len(sizes)


def _edges(
    boxes: Sequence[NDArray[np.bool_]], corners: Sequence[tuple[int, int]], image_height: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the column-major pixels of the image where foreground starts and ends, and the number of edges per mask."""
    heights, widths = (np.array([box.shape[axis] for box in boxes], dtype=np.int64) for axis in (0, 1))
    tops, lefts = np.array(corners, dtype=np.int64).T
    # A row of background follows each box, so that foreground ends with its column and every start has an end.
    offsets = np.concatenate([[0], np.cumsum(widths * (heights + 1))])
    places = _changes(boxes, offsets)
    num_edges = np.diff(np.searchsorted(places, offsets))
    within = (places - np.repeat(offsets[:-1], num_edges)).astype(np.int32)
    row_lengths = np.repeat(widths.astype(np.int32), num_edges)
    rows = within // row_lengths
    columns = within - rows * row_lengths
    # Sorted by columns. Their number fits 16 bits but for very wide boxes, and NumPy sorts these fastest.
    keys = columns + np.repeat(np.cumsum(widths) - widths, num_edges)
    order = np.argsort(keys.astype(np.min_scalar_type(widths.sum())), kind="stable")
    edges = (columns * image_height + rows + np.repeat(lefts * image_height + tops, num_edges))[order]
    if image_height in heights:
        # Foreground may continue from the end of one column to the start of the next, so remove these edges.
        masks = np.repeat(np.arange(len(boxes)), num_edges)
        joined = np.flatnonzero((edges[1:] == edges[:-1]) & (masks[1:] == masks[:-1]))
        edges = np.delete(edges, np.concatenate([joined, joined + 1]))
        num_edges -= 2 * np.bincount(masks[joined], minlength=len(boxes))
    return edges, num_edges


def _changes(boxes: Sequence[NDArray[np.bool_]], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find where a pixel differs from the one above it. Rows count one after the other, in all boxes.

    Args:
        boxes: see `encode_boxes`.
        offsets: number of pixels before each box and in all, with a row more for each box.
    """
    words = np.empty(-(-int(offsets[-1]) // _WORD), dtype=np.uint64)
    changes = words.view(bool)
    changes[offsets[-1] :] = False
    for box, offset in zip(boxes, offsets.tolist(), strict=False):
        height, width = box.shape
        of_box = changes[offset : offset + (height + 1) * width].reshape(height + 1, width)
        if height:
            of_box[0], of_box[height] = box[0], box[height - 1]
            np.not_equal(box[1:], box[:-1], out=of_box[1:height])
        else:
            of_box[:] = False
    filled = np.flatnonzero(words != 0)  # few words have a change
    inside = np.flatnonzero(words[filled].view(bool))
    return filled[inside // _WORD] * _WORD + inside % _WORD


def _runs(
    edges: NDArray[np.int64], num_edges: NDArray[np.int64], num_pixels: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Compute the run lengths of all masks, background first, and the number of runs per mask."""
    ends = np.cumsum(num_edges)
    reaches_end = np.zeros(len(num_edges), dtype=bool)
    has_edges = num_edges > 0
    reaches_end[has_edges] = edges[ends[has_edges] - 1] == num_pixels
    # The last run ends with the image. Foreground that reaches the end of the image has that edge already.
    num_runs = num_edges + ~reaches_end
    bounds = np.insert(edges, ends[~reaches_end], num_pixels)
    runs = np.diff(bounds, prepend=0)
    firsts = np.cumsum(num_runs) - num_runs
    runs[firsts] = bounds[firsts]
    return runs, num_runs


def _compress(runs: NDArray[np.int64], num_runs: NDArray[np.int64]) -> list[bytes]:
    """Compress the runs of each mask to bytes.

    From the fourth run on, a run is stored as its difference to the run two before. Each byte holds 5 bits, lowest
    first, and one bit for "more follows". The highest of the last 5 bits is the sign.

    Source: `rleToString` in pycocotools' maskApi.c.
    """
    ends = np.cumsum(num_runs)
    values = runs.copy()
    values[2:] -= runs[:-2]
    # The first three runs of each mask are stored unchanged.
    as_they_are = ((ends - num_runs)[:, None] + np.arange(3)).ravel()
    as_they_are = as_they_are[(np.arange(3) < num_runs[:, None]).ravel()]
    values[as_they_are] = runs[as_they_are]
    num_bytes = np.ones(len(values), dtype=np.int64)
    beyond = np.where(values < 0, ~values, values) >> 4
    while beyond.any():
        num_bytes += beyond > 0
        beyond >>= 5
    byte_ends = np.cumsum(num_bytes)
    coded = np.empty(byte_ends[-1], dtype=np.uint8)
    rest, places, left = values, byte_ends - num_bytes, num_bytes
    while len(rest):
        coded[places] = (rest & 31) + np.where(left > 1, 48 + 32, 48)
        goes_on = left > 1
        rest, places, left = rest[goes_on] >> 5, places[goes_on] + 1, left[goes_on] - 1
    text = coded.tobytes()
    bounds = [0, *byte_ends[ends - 1].tolist()]
    return [text[start:stop] for start, stop in pairwise(bounds)]
