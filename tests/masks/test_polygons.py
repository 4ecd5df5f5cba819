"""Polygons rasterise to the masks they were made from."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask
from scipy.ndimage import gaussian_filter

from raylabel.masks.polygons import mask_polygon

SIDE = 60


def disc(x: float, y: float, radius: float) -> np.ndarray:
    ys, xs = np.mgrid[:SIDE, :SIDE]
    return (xs - x) ** 2 + (ys - y) ** 2 <= radius**2


def rasterised(polygon: np.ndarray) -> np.ndarray:
    [rle] = coco_mask.frPyObjects([polygon.ravel().tolist()], SIDE, SIDE)
    return coco_mask.decode(rle).astype(bool)


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return (first & second).sum() / (first | second).sum()


discs = st.tuples(st.integers(0, SIDE), st.integers(0, SIDE), st.integers(5, 20)).map(lambda args: disc(*args))


@settings(max_examples=60, deadline=None)
@given(st.lists(discs, min_size=1, max_size=4), st.lists(discs, max_size=1))
def test_rasterises_back_with_parts_and_holes(added: list[np.ndarray], removed: list[np.ndarray]) -> None:
    mask = np.logical_or.reduce(added)
    for hole in removed:
        mask = mask & ~hole
    if mask.sum() >= 300:
        assert iou(rasterised(mask_polygon(mask)), mask) > 0.85


def even_odd(polygon: np.ndarray, shape_hw: tuple[int, int]) -> np.ndarray:
    """Fill by the even-odd rule at pixel centres."""
    (x0, y0), (x1, y1) = polygon.T, np.roll(polygon, -1, axis=0).T
    filled = np.zeros(shape_hw, bool)
    for row in range(shape_hw[0]):
        y = row + 0.5
        crosses = (y0 <= y) != (y1 <= y)
        at = x0[crosses] + (y - y0[crosses]) * (x1 - x0)[crosses] / (y1 - y0)[crosses]
        filled[row] = (at[:, None] > np.arange(shape_hw[1]) + 0.5).sum(axis=0) % 2
    return filled


sides = st.integers(1, 24)
pixels = st.tuples(sides, sides).flatmap(lambda shape: arrays(bool, shape))
seeds_and_shares = st.tuples(st.integers(0, 2**32 - 1), st.floats(0, 1), sides, sides)
noise = seeds_and_shares.map(lambda given: np.random.default_rng(given[0]).random(given[2:]) < given[1])


@settings(max_examples=300)
@given(pixels | noise)
def test_every_pixel_centre_is_on_its_side(mask: np.ndarray) -> None:
    """Also for ragged masks: holes, many parts, single pixels, parts that share neither a row nor a column."""
    polygon = mask_polygon(mask)
    assert np.array_equal(even_odd(polygon, mask.shape) if len(polygon) else np.zeros_like(mask), mask)


@pytest.mark.parametrize("side", [127, 32768])
def test_parts_at_the_far_end_of_any_side_are_joined(side: int) -> None:
    """Halves of pixels need one byte up to 127 pixels, and two up to 32767."""
    mask = np.zeros((3, side), bool)
    mask[:, [0, -2]] = True
    mask[0, side // 2] = mask[-1, -1] = True
    for one in (mask, mask.T):
        assert np.array_equal(even_odd(mask_polygon(one), one.shape), one)


def test_a_large_ragged_mask_is_kept() -> None:
    """A mask of 5,000 parts and holes, of single pixels, and of far corners. It took minutes once."""
    mask = gaussian_filter(np.random.default_rng(0).normal(size=(640, 640)), 1.0) > 0
    mask[:, 300:400] = False
    mask[100:110, 340:350] = mask[0, -1] = mask[-1, 0] = True
    polygon = mask_polygon(mask)
    assert np.array_equal(even_odd(polygon, mask.shape), mask)
    [rle] = coco_mask.frPyObjects([polygon.ravel().tolist()], *mask.shape)
    assert iou(coco_mask.decode(rle).astype(bool), mask) == 1


def test_parts_are_joined_where_they_are_near() -> None:
    mask = np.zeros((40, 40), bool)
    mask[:10], mask[12:20], mask[30:, :3], mask[22:25, 20:25] = True, True, True, True
    steps = np.abs(np.diff(mask_polygon(mask), axis=0)).sum(axis=1)
    ways_between = sorted(steps[(steps > 1) & (steps < 20)].tolist())
    assert ways_between[:4] == [2, 2, 2, 2], "gaps of two pixels are crossed there and back"


def test_rectangle_has_its_edges_and_few_points() -> None:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[10:30, 5:45] = True
    polygon = mask_polygon(mask)
    assert polygon.min(axis=0).tolist() == [5, 10]
    assert polygon.max(axis=0).tolist() == [45, 30]
    assert len(polygon) == 8  # four corners, each cut by half a pixel


def test_ring_leaves_its_hole_out() -> None:
    ring = disc(30, 30, 25) & ~disc(30, 30, 15)
    back = rasterised(mask_polygon(ring))
    assert not back[30, 30]
    assert iou(back, ring) > 0.93


def test_empty_single_pixel_and_full_masks() -> None:
    assert mask_polygon(np.zeros((4, 5), bool)).shape == (0, 2)
    pixel = np.zeros((4, 5), bool)
    pixel[2, 3] = True
    assert mask_polygon(pixel).mean(axis=0).tolist() == [3.5, 2.5]
    full = mask_polygon(np.ones((4, 5), bool))
    assert full.min() == 0
    assert full.max(axis=0).tolist() == [5, 4]
