"""Tiles: every pixel is seen, and the tiles' predictions make those of the image."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from raylabel.config import TileConfig
from raylabel.dataset.images import ImageError
from raylabel.masks.rle import decode_masks, encode_masks, mask_boxes
from raylabel.models import tiles
from raylabel.models.tiles import TiledImages, merge_tiles, tile_corners
from raylabel.predictions.instances import Instances

NUM_CLASSES = 3


def instances(masks_NHW: NDArray[np.bool_], scores: Sequence[float], classes: Sequence[int]) -> Instances:
    """Predictions with these masks; the soft vector and the mask quality tell the score."""
    soft_vectors = np.zeros((len(scores), NUM_CLASSES + 1), np.float32)
    for row, (score, class_index) in enumerate(zip(scores, classes, strict=True)):
        soft_vectors[row, [class_index, NUM_CLASSES]] = score, 1 - score
    encoded = encode_masks(masks_NHW)
    return Instances(
        image_size_hw=(masks_NHW.shape[1], masks_NHW.shape[2]),
        boxes_xyxy=mask_boxes(encoded),
        masks=tuple(encoded),
        class_indices=np.array(classes, np.int32),
        raw_scores=np.array(scores, np.float32),
        soft_vectors=soft_vectors,
        mask_quality=np.array(scores, np.float32),
    )


def seen_by(truth_NHW: NDArray[np.bool_], corner: tuple[int, int], size: int, scores: NDArray[np.float64]) -> Instances:
    """What a perfect model says of a tile: each object's part in it, with a score that falls with the hidden share."""
    top, left = corner
    parts = truth_NHW[:, top : top + size, left : left + size]
    rows = np.flatnonzero(parts.any(axis=(1, 2)))
    share = parts[rows].sum(axis=(1, 2)) / truth_NHW[rows].sum(axis=(1, 2))
    return instances(parts[rows], (scores[rows] * share).tolist(), (rows % NUM_CLASSES).tolist())


@given(st.integers(1, 500), st.integers(1, 500), st.integers(16, 120), st.floats(0, 0.9))
def test_tiles_cover_the_image_and_overlap_as_asked(height: int, width: int, size: int, overlap: float) -> None:
    tile = TileConfig(size=size, overlap=overlap)
    for axis, length in enumerate((height, width)):
        starts = sorted({corner[axis] for corner in tile_corners((height, width), tile)})
        assert starts[0] == 0
        assert starts[-1] == max(0, length - size)
        steps = np.diff(starts)
        assert (steps > 0).all()
        assert (steps <= max(1, np.ceil(size * (1 - overlap)))).all()


@given(st.data())
@settings(max_examples=60)
def test_a_perfect_model_sees_the_same_objects_in_tiles(data: st.DataObject) -> None:
    """Objects do not touch. Each is at most twice as long as a tile."""
    height, width = data.draw(st.integers(20, 90)), data.draw(st.integers(20, 90))
    tile = TileConfig(size=data.draw(st.integers(16, 40)), overlap=data.draw(st.floats(0.2, 0.6)))
    occupied = np.zeros((height, width), bool)
    truth = []
    for _ in range(data.draw(st.integers(0, 8))):
        h, w = (
            data.draw(st.integers(3, min(height, 2 * tile.size))),
            data.draw(st.integers(3, min(width, 2 * tile.size))),
        )
        top, left = data.draw(st.integers(0, height - h)), data.draw(st.integers(0, width - w))
        if occupied[max(0, top - 1) : top + h + 1, max(0, left - 1) : left + w + 1].any():
            continue
        mask = np.zeros((height, width), bool)
        mask[top : top + h, left : left + w] = True
        occupied |= mask
        truth.append(mask)
    truth_NHW = np.array(truth).reshape(-1, height, width)
    scores = 0.9 - 0.05 * np.arange(len(truth))
    corners = tile_corners((height, width), tile)
    found = [seen_by(truth_NHW, corner, tile.size, scores) for corner in corners]
    merged = merge_tiles(found, corners, (height, width), max_per_image=100)
    expected = {mask.tobytes() for mask in truth_NHW}
    assert {mask.tobytes() for mask in decode_masks(merged.masks, (height, width))} == expected
    assert len(merged) == len(truth)
    np.testing.assert_array_equal(merged.boxes_xyxy, mask_boxes(merged.masks))
    assert (np.diff(merged.raw_scores) <= 0).all()
    np.testing.assert_array_equal(merged.soft_vectors[np.arange(len(merged)), merged.class_indices], merged.raw_scores)


def test_the_best_predictions_stay() -> None:
    masks = np.zeros((2, 8, 8), bool)
    masks[0, 1:3, 1:3] = masks[1, 5:7, 5:7] = True
    found = instances(masks, [0.3, 0.8], [0, 1])
    merged = merge_tiles([found], [(0, 0)], (8, 8), max_per_image=1)
    assert merged.raw_scores.tolist() == [np.float32(0.8)]
    assert merged.masks == (found.masks[1],)


def test_two_objects_that_one_tile_tells_apart_stay_two() -> None:
    """The other tile sees both as one. It joins the one that it agrees with best."""
    left, right = np.zeros((2, 10, 10), bool), np.zeros((1, 10, 10), bool)
    left[0, 2:5, 6:10] = left[1, 5:8, 6:10] = True
    right[0, 2:7, 0:8] = True  # columns 4 to 12 of the image
    merged = merge_tiles(
        [instances(left, [0.9, 0.8], [0, 1]), instances(right, [0.5], [2])], [(0, 0), (0, 4)], (10, 14), max_per_image=9
    )
    assert merged.class_indices.tolist() == [0, 1]


def test_a_mask_is_measured_once_for_all_its_partners(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of large masks per tile, as many classes at a low threshold give, have 10,000s of pairs per border."""
    measured, measure = [], tiles._area_inside
    monkeypatch.setattr(tiles, "_area_inside", lambda *arguments: measured.append(arguments) or measure(*arguments))
    num, far = 20, 10**6
    found = instances(np.ones((num, 8, 8), bool), np.linspace(0.1, 0.9, num).tolist(), [0] * num)
    merged = merge_tiles([found] * 3, [(0, 0), (0, 6), (0, far)], (8, far + 8), max_per_image=2 * num)
    assert len(measured) == 2 * num
    assert len(merged) == 2 * num


def test_images_of_any_size_come_back_whole_and_in_their_order() -> None:
    tiled = TiledImages(TileConfig(size=16, overlap=0.25), max_per_image=5)
    images = [np.full(shape, 7, np.uint8) for shape in ((16, 16, 3), (40, 18, 3), (5, 6, 3))]
    error = ImageError("broken")
    stream = [(0, images[0]), (1, error), (2, images[1]), (3, images[2])]
    cut = list(tiled.cut(stream))
    assert [number for number, _ in cut] == list(range(len(cut)))
    done = {}
    for number, tile in reversed(cut):
        found = tile if isinstance(tile, ImageError) else Instances.empty(tile.shape[:2], NUM_CLASSES)
        if whole := tiled.add(number, found):
            done[whole[0]] = whole[1]
    assert done[1] is error
    assert {position: done[position].image_size_hw for position in (0, 2, 3)} == {0: (16, 16), 2: (40, 18), 3: (5, 6)}


def test_the_error_of_a_tile_is_the_images() -> None:
    tiled = TiledImages(TileConfig(size=16), max_per_image=5)
    [first, *others] = [number for number, _ in tiled.cut([(4, np.zeros((16, 40, 3), np.uint8))])]
    error = ImageError("model failed")
    assert tiled.add(first, error) is None
    results = [tiled.add(number, Instances.empty((16, 16), NUM_CLASSES)) for number in others]
    assert results[:-1] == [None] * (len(others) - 1)
    assert results[-1] == (4, error)
