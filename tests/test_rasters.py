"""Polygons pixel for pixel as pycocotools draws them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from raylabel.masks import decode_segmentations, encode_masks
from raylabel.rasters import rasterise
from raylabel.runs import MaskRuns

coordinates = st.one_of(
    st.floats(-8, 30).map(lambda value: round(value, 2)),
    st.integers(-3, 26),
    st.integers(-30, 260).map(lambda v: v / 10),
)
polygons = st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=9).map(
    lambda points: [float(value) for point in points for value in point]
)
objects = st.lists(polygons, min_size=1, max_size=3)
sizes = st.tuples(st.integers(1, 25), st.integers(1, 25))


def masks_of(runs: MaskRuns, sizes_hw: list[tuple[int, int]]) -> list[np.ndarray]:
    found = []
    for index, (height, width) in enumerate(sizes_hw):
        mask = np.zeros(height * width, dtype=bool)
        for run in range(runs.run_offsets[index], runs.run_offsets[index + 1]):
            mask[runs.starts[run] - runs.origins[index] : runs.ends[run] - runs.origins[index]] = True
        assert mask.sum() == runs.areas[index]
        found.append(mask.reshape(width, height).T)
    return found


def drawn_by_pycocotools(polygons: list[list[float]], size_hw: tuple[int, int]) -> np.ndarray:
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *size_hw))).astype(bool)


@given(st.lists(st.tuples(objects, sizes), max_size=4))
@settings(max_examples=400)
@example([([[0.0, 0.0, 25.0, 0.0, 25.0, 25.0, 0.0, 25.0]], (25, 25))])
@example([([[2.0, 1.0, 2.0, 1.0, 2.0, 1.0]], (4, 4))])
@example([([[-5.0, -5.0, 30.0, 12.5, -5.0, 30.0]] * 2, (20, 20)), ([[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]], (10, 10))])
def test_equals_pycocotools(drawn):
    segmentations, sizes_hw = [one for one, _ in drawn], [size for _, size in drawn]
    found = masks_of(rasterise(segmentations, np.array(sizes_hw, dtype=np.int64).reshape(-1, 2)), sizes_hw)
    for mask_HW, segmentation, size_hw in zip(found, segmentations, sizes_hw, strict=True):
        np.testing.assert_array_equal(mask_HW, drawn_by_pycocotools(segmentation, size_hw))


def test_equals_pycocotools_on_real_outlines(shared_data: Callable[[str], Path]) -> None:
    content = json.loads((shared_data("external_detector") / "instances.json").read_text())
    size_of = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    annotations = content["annotations"]
    sizes_hw = [size_of[one["image_id"]] for one in annotations]
    runs, places = decode_segmentations([one["segmentation"] for one in annotations], np.array(sizes_hw))
    assert sorted(places.tolist()) == list(range(len(annotations)))
    num_kinds = {list: 0, dict: 0}
    for annotation, size_hw, place in zip(annotations, sizes_hw, places.tolist(), strict=True):
        segmentation = annotation["segmentation"]
        num_kinds[type(segmentation)] += 1
        rle = coco_mask.frPyObjects(segmentation, *size_hw)
        expected = coco_mask.decode(coco_mask.merge(rle) if isinstance(rle, list) else rle).ravel(order="F")
        part = slice(runs.run_offsets[place], runs.run_offsets[place + 1])
        found = np.zeros(expected.size + 1, dtype=np.int64)
        np.add.at(found, runs.starts[part] - runs.origins[place], 1)
        np.add.at(found, runs.ends[part] - runs.origins[place], -1)
        np.testing.assert_array_equal(np.cumsum(found)[:-1], expected)
    assert min(num_kinds.values()) > 0


def test_kinds_of_segmentation_keep_their_order():
    square = [[1.0, 1.0, 5.0, 1.0, 5.0, 5.0, 1.0, 5.0]]
    rle = encode_masks(np.ones((1, 8, 9), dtype=bool))[0]
    text = {"size": [8, 9], "counts": rle["counts"].decode()}
    plain = {"size": [8, 9], "counts": [60, 12]}
    runs, places = decode_segmentations([rle, square, plain, square, text], np.array([[8, 9]] * 5))
    assert runs.areas[places].tolist() == [72, 16, 12, 16, 72]
    runs, places = decode_segmentations([], np.zeros((0, 2), dtype=np.int64))
    assert runs.areas[places].tolist() == []
