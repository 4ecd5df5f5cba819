"""Polygons to runs, many at once and pixel for pixel as pycocotools draws them."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from raylabel.runs import MaskRuns

_SCALE = 5
"""pycocotools draws on a grid so many times as fine."""


def rasterise(objects: Sequence[Sequence[Sequence[float]]], sizes_hw: NDArray[np.int64]) -> MaskRuns:
    """Draw objects, each of one or more polygons that are filled (even-odd) and united.

    Args:
        objects: N lists of polygons `[x0, y0, x1, y1, ...]` of at least 3 points, in pixels.
        sizes_hw: (N, 2) height and width of each object's image.

    Source: `rleFrPoly` in pycocotools' maskApi.c. It walks along every edge on a fine grid and keeps the steps over the
        middle of a pixel column, which turn foreground on or off; here just those steps are computed.
    """
    polygons = [polygon for of_object in objects for polygon in of_object]
    num_polygons = np.fromiter(map(len, objects), dtype=np.int64, count=len(objects))
    drawn = _draw(polygons, np.repeat(sizes_hw, num_polygons, axis=0))
    return drawn if len(polygons) == len(objects) else _unite(drawn, num_polygons, sizes_hw.prod(axis=1))


def _draw(polygons: Sequence[Sequence[float]], sizes_hw: NDArray[np.int64]) -> MaskRuns:
    """Each polygon as a mask of its own."""
    owners, toggles = _toggles(polygons, sizes_hw)
    num_toggles = np.bincount(owners, minlength=len(polygons))
    origins = np.concatenate([[0], np.cumsum(sizes_hw.prod(axis=1))])
    # What is still on at the end of the image ends there.
    places = np.concatenate([origins[owners] + toggles, origins[1:][num_toggles % 2 == 1]])
    places.sort()
    return _mask_runs(places[0::2].copy(), places[1::2].copy(), (num_toggles + 1) // 2, origins)


def _mask_runs(
    starts: NDArray[np.int64], ends: NDArray[np.int64], num_runs: NDArray[np.int64], origins: NDArray[np.int64]
) -> MaskRuns:
    return MaskRuns(
        starts=starts,
        ends=ends,
        run_offsets=np.concatenate([[0], np.cumsum(num_runs)]),
        origins=origins,
        num_before=np.concatenate([[0], np.cumsum(ends - starts)]),
    )


def _unite(drawn: MaskRuns, num_polygons: NDArray[np.int64], num_pixels: NDArray[np.int64]) -> MaskRuns:
    """The masks of each object's polygons as one."""
    origins = np.concatenate([[0], np.cumsum(num_pixels)])
    polygon_owners = np.repeat(np.arange(len(num_polygons)), num_polygons)
    num_runs = np.diff(drawn.run_offsets)
    shift = np.repeat(origins[polygon_owners] - drawn.origins[:-1], num_runs)
    owners, starts, ends = np.repeat(polygon_owners, num_runs), drawn.starts + shift, drawn.ends + shift
    is_several = (num_polygons > 1)[owners]
    # A run of the union begins where the first of its parts does and ends with the last.
    places = np.concatenate([starts[is_several], ends[is_several]])
    change = np.repeat([1, -1], len(places) // 2)
    place_owners = np.tile(owners[is_several], 2)
    order = np.lexsort((-change, places, place_owners))
    change, places, place_owners = change[order], places[order], place_owners[order]
    depth = np.cumsum(change)
    begins, finishes = (depth == 1) & (change == 1), depth == 0
    num_united = np.bincount(place_owners[begins], minlength=len(num_polygons))
    num_united += np.bincount(owners[~is_several], minlength=len(num_polygons))
    of_several = np.repeat(num_polygons > 1, num_united)
    united_starts, united_ends = np.empty((2, len(of_several)), dtype=np.int64)
    united_starts[of_several], united_ends[of_several] = places[begins], places[finishes]
    united_starts[~of_several], united_ends[~of_several] = starts[~is_several], ends[~is_several]
    return _mask_runs(united_starts, united_ends, num_united, origins)


def _toggles(
    polygons: Sequence[Sequence[float]], sizes_hw: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where outlines step over the middle of a pixel column: polygon, and place in column-major order."""
    num_values = np.fromiter(map(len, polygons), dtype=np.int64, count=len(polygons))
    values = np.fromiter(chain.from_iterable(polygons), dtype=np.float64, count=num_values.sum())
    # Truncation, not floor, as in C.
    corners = (_SCALE * values + 0.5).astype(np.int64).reshape(-1, 2)
    num_corners = num_values // 2
    following = np.arange(1, len(corners) + 1)
    lasts = np.cumsum(num_corners) - 1
    following[lasts] = lasts + 1 - num_corners
    owners = np.repeat(np.arange(len(polygons)), num_corners)
    (x, y), (next_x, next_y) = corners.T, corners[following].T
    # The step from 5 c + 2 to 5 c + 3 is the one over the middle of column c.
    first = np.maximum(-((2 - np.minimum(x, next_x)) // _SCALE), 0)
    last = np.minimum((np.maximum(x, next_x) - 3) // _SCALE, sizes_hw[owners, 1] - 1)
    edges = np.flatnonzero(last >= first)
    owners, x, y, next_x, next_y = owners[edges], x[edges], y[edges], next_x[edges], next_y[edges]
    num_steps = last[edges] - first[edges] + 1
    before = np.cumsum(num_steps) - num_steps
    columns = np.arange(num_steps.sum()) + np.repeat(first[edges] - before, num_steps)
    is_flat = np.abs(next_x - x) >= np.abs(next_y - y)
    is_turned = np.where(is_flat, x > next_x, y > next_y)
    from_x, from_y = np.where(is_turned, next_x, x), np.where(is_turned, next_y, y)
    run, rise = np.abs(next_x - x), np.abs(next_y - y)
    slope = np.where(is_flat, (y + next_y - 2 * from_y) / run, (x + next_x - 2 * from_x) / np.maximum(rise, 1))
    edge = np.repeat(np.arange(len(edges)), num_steps)
    crossed = np.empty(len(columns))
    flat_steps = is_flat[edge]
    for steps, crossing in ((np.flatnonzero(flat_steps), _cross_flat), (np.flatnonzero(~flat_steps), _cross_steep)):
        of_edge = edge[steps]
        crossed[steps] = crossing(_SCALE * columns[steps] + 2, from_x[of_edge], from_y[of_edge], slope[of_edge])
    heights = sizes_hw[owners[edge], 0]
    rows = np.ceil(np.clip((crossed + 0.5) / _SCALE - 0.5, 0, heights)).astype(np.int64)
    return owners[edge], columns * heights + rows


def _cross_flat(
    left: NDArray[np.int64], from_x: NDArray[np.int64], from_y: NDArray[np.int64], slope: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Lower y of the step from x = `left` on edges on which every step is one in x."""
    step = left - from_x
    return np.minimum(np.trunc(from_y + slope * step + 0.5), np.trunc(from_y + slope * (step + 1) + 0.5))


def _cross_steep(
    left: NDArray[np.int64], from_x: NDArray[np.int64], from_y: NDArray[np.int64], slope: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Lower y of the step between x = `left` and the next x on edges on which every step is one in y."""

    def is_beyond(step: NDArray[np.float64]) -> NDArray[np.bool_]:
        return (np.trunc(from_x + slope * step + 0.5) > left) == (slope > 0)

    step = np.ceil((left + 0.5 - from_x) / slope)
    # The quotient may be rounded to either side of the step that the walk makes.
    step -= is_beyond(step - 1)
    step += ~is_beyond(step)
    return (from_y + step - 1).astype(np.float64)
