"""Masks encoded from boxes have the bytes that pycocotools gives for whole images."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from raylabel.masks import encode_boxes as box_encoding
from raylabel.masks.encode_boxes import encode_boxes
from raylabel.masks.rle import Rle

Placed = tuple[NDArray[np.bool_], tuple[int, int]]


def encode_images(placed: list[Placed], image_size_hw: tuple[int, int]) -> list[Rle]:
    """Paste each mask into an empty image and encode the image."""
    rles = []
    for box, (top, left) in placed:
        image = np.zeros(image_size_hw, np.uint8, order="F")
        image[top : top + box.shape[0], left : left + box.shape[1]] = box
        rles.append(coco_mask.encode(image))
    return rles


@st.composite
def images(draw: st.DrawFn) -> tuple[list[Placed], tuple[int, int]]:
    """Draw boxes with masks in a small image: at its borders, of its height, empty, or of the whole image."""
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    placed = []
    for _ in range(draw(st.integers(0, 6))):
        top, left = draw(st.integers(0, height)), draw(st.integers(0, width))
        if draw(st.booleans()):
            top = 0
        bottom = draw(st.sampled_from([height, draw(st.integers(top, height))]))
        right = draw(st.sampled_from([width, draw(st.integers(left, width))]))
        share = draw(st.sampled_from([0.0, 0.3, 0.8, 1.0]))
        rng = np.random.default_rng(draw(st.integers(0, 2**16)))
        placed.append((rng.random((bottom - top, right - left)) < share, (top, left)))
    return placed, (height, width)


def pixel(height: int, width: int, top: int, left: int) -> tuple[list[Placed], tuple[int, int]]:
    return [(np.ones((1, 1), bool), (top, left))], (height, width)


@settings(max_examples=400)
@given(images())
@example(pixel(5, 4, 0, 0))
@example(pixel(5, 4, 4, 3))
@example(pixel(1, 1, 0, 0))
@example(([(np.ones((3, 4), bool), (0, 0)), (np.zeros((3, 4), bool), (0, 0)), (np.ones((3, 2), bool), (0, 1))], (3, 4)))
def test_bytes_are_those_of_the_whole_image(image: tuple[list[Placed], tuple[int, int]]) -> None:
    placed, image_size_hw = image
    boxes, corners = [box for box, _ in placed], [corner for _, corner in placed]
    assert encode_boxes(boxes, corners, image_size_hw) == encode_images(placed, image_size_hw)


def test_runs_of_several_bytes_and_negative_differences() -> None:
    """Runs reach millions of pixels, and the masks have more pixels than one part takes."""
    rng = np.random.default_rng(0)
    placed: list[Placed] = [(np.ones((1, 1), bool), (2999, 1999)), (np.ones((3000, 900), bool), (0, 300))]
    for height, width in ((3000, 10), (2999, 10), (700, 800), (40, 1900)):
        soft = rng.random((height // 10 + 1, width // 10 + 1)).repeat(10, axis=0).repeat(10, axis=1)
        top, left = rng.integers(0, 3000 - height + 1), rng.integers(0, 2000 - width + 1)
        placed.append((soft[:height, :width] < 0.5, (int(top), int(left))))
    placed += placed
    assert sum(box.size for box, _ in placed) > box_encoding._PIXELS_AT_A_TIME
    found = encode_boxes([box for box, _ in placed], [corner for _, corner in placed], (3000, 2000))
    assert found == encode_images(placed, (3000, 2000))


def test_no_mask() -> None:
    assert encode_boxes([], [], (4, 5)) == []
