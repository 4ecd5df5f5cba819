"""Polygons rasterise to the masks they were made from."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

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
