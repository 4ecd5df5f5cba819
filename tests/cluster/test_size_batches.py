"""Batches of equal size: every image once, no image waits long, bounds are kept."""

from collections.abc import Iterator

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raylabel.cluster.decoding import Decoded
from raylabel.cluster.size_batches import batches_by_size
from raylabel.dataset.images import ImageError

SIZES = [(2, 3), (3, 2), (4, 4), (1, 30), None]
"""None: no image."""


def image(size_hw: tuple[int, int] | None) -> Decoded:
    return ImageError("truncated") if size_hw is None else np.zeros((*size_hw, 3), np.uint8)


@given(st.lists(st.sampled_from(SIZES), max_size=60), st.integers(1, 5), st.integers(1, 100))
def test_every_image_once_in_batches_of_its_size(
    sizes: list[tuple[int, int] | None], max_images: int, max_pixels: int
) -> None:
    num_taken = 0

    def stream() -> Iterator[tuple[int, Decoded]]:
        nonlocal num_taken
        for position, size in enumerate(sizes):
            num_taken = position + 1
            yield position, image(size)

    seen: list[int] = []
    for positions, batch in batches_by_size(stream(), max_images=max_images, max_pixels=max_pixels):
        images = [batch] if isinstance(batch, ImageError) else batch
        assert len(positions) == len(images) <= max_images
        assert positions == sorted(positions)
        assert {getattr(one, "shape", (None,))[:2] for one in images} in [{size or (None,)} for size in SIZES]
        pixels = [one.shape[0] * one.shape[1] for one in images if isinstance(one, np.ndarray)]
        assert len(images) == 1 or sum(pixels) <= max_pixels
        seen += positions
        waiting = [sizes[position] for position in range(num_taken) if position not in seen]
        areas = [size[0] * size[1] for size in waiting if size is not None]
        assert len(areas) <= 4 * max_images
        assert len(areas) <= 1 or sum(areas[:-1]) <= max_pixels, "the last image may just have been taken"
    assert sorted(seen) == list(range(len(sizes)))


def test_the_oldest_go_first_where_too_many_wait() -> None:
    sizes = [(1, 1), *[(2, 2 + number) for number in range(9)]]
    stream = ((position, image(size)) for position, size in enumerate(sizes))
    batches = batches_by_size(stream, max_images=2, max_pixels=10**6)
    assert [positions for positions, _ in batches] == [[position] for position in range(10)]


def test_a_full_batch_goes_at_once() -> None:
    stream = ((position, image((2, 2))) for position in range(5))
    assert [positions for positions, _ in batches_by_size(stream, max_images=2, max_pixels=99)] == [[0, 1], [2, 3], [4]]
