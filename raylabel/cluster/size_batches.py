"""Batches of images of equal size from a stream of images of any size."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from raylabel.cluster.decoding import Decoded
from raylabel.dataset.images import ImageError

SizedBatch = list[NDArray[np.uint8]] | ImageError
"""Images of equal shape, or why there is none."""

_BATCHES_WAITING = 4
"""So many batches' worth of images may wait for others of their size."""


def batches_by_size(
    images: Iterable[tuple[int, Decoded]], *, max_images: int, max_pixels: int
) -> Iterator[tuple[list[int], SizedBatch]]:
    """Images of equal shape together; what is no image comes by itself.

    Where too many wait for others of their size, those that have waited longest go. What is in a batch depends on the
    order and sizes of the images alone.

    Args:
        images: positions and images.
        max_images: of a batch; four times as many may wait.
        max_pixels: of all images that wait, and so of a batch; but never less than one image.

    Yields:
        positions and images of a batch, in the order in which they came; or one position, and why there is no image.
    """
    waiting = _Waiting()
    for position, image in images:
        if isinstance(image, ImageError):
            yield [position], image
            continue
        shape = image.shape
        while waiting.num_images and waiting.num_pixels + shape[0] * shape[1] > max_pixels:
            yield waiting.pop_oldest()
        num_of_shape = waiting.add(position, image)
        del image  # or the last batch would stay in memory while the next image is waited for
        if num_of_shape == max_images:
            yield waiting.pop(shape)
        elif waiting.num_images == _BATCHES_WAITING * max_images:
            yield waiting.pop_oldest()
    while waiting.num_images:
        yield waiting.pop_oldest()


class _Waiting:
    """Images by shape; shapes in the order of their first image."""

    def __init__(self) -> None:
        self._by_shape: dict[tuple[int, ...], tuple[list[int], list[NDArray[np.uint8]]]] = {}
        self.num_images = self.num_pixels = 0

    def add(self, position: int, image: NDArray[np.uint8]) -> int:
        """How many of its shape wait now."""
        positions, images = self._by_shape.setdefault(image.shape, ([], []))
        positions.append(position)
        images.append(image)
        self._count(image.shape, 1)
        return len(images)

    def pop_oldest(self) -> tuple[list[int], list[NDArray[np.uint8]]]:
        return self.pop(next(iter(self._by_shape)))

    def pop(self, shape: tuple[int, ...]) -> tuple[list[int], list[NDArray[np.uint8]]]:
        positions, images = self._by_shape.pop(shape)
        self._count(shape, -len(images))
        return positions, images

    def _count(self, shape: tuple[int, ...], num: int) -> None:
        self.num_images += num
        self.num_pixels += num * shape[0] * shape[1]
