"""Batches of images of equal size, from a stream of images of any size."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from raylabel.cluster.decoding import Decoded
from raylabel.dataset.images import ImageError

SizedBatch = list[NDArray[np.uint8]] | ImageError
"""Images of equal shape, or the error if there is no image."""

_BATCHES_WAITING = 4
"""Number of batches' worth of images that may wait for others of their size."""


def batches_by_size(
    images: Iterable[tuple[int, Decoded]], *, max_images: int, max_pixels: int
) -> Iterator[tuple[list[int], SizedBatch]]:
    """Group images of equal shape into batches. An error is yielded alone.

    If too many images wait for others of their size, the shape that has waited longest is yielded. Batches depend only
    on the order and sizes of the images.

    Args:
        images: positions and images.
        max_images: largest number of images per batch. Four times as many may wait.
        max_pixels: largest number of pixels of all waiting images, and so of a batch. One image may always wait.

    Yields:
        Positions and images of a batch, in their order; or one position and its error.
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
        del image  # otherwise the last batch stays in memory while the next image is decoded
        if num_of_shape == max_images:
            yield waiting.pop(shape)
        elif waiting.num_images == _BATCHES_WAITING * max_images:
            yield waiting.pop_oldest()
    while waiting.num_images:
        yield waiting.pop_oldest()


class _Waiting:
    """The waiting images by shape. Shapes are in the order of their first image."""

    def __init__(self) -> None:
        self._by_shape: dict[tuple[int, ...], tuple[list[int], list[NDArray[np.uint8]]]] = {}
        self.num_images = self.num_pixels = 0

    def add(self, position: int, image: NDArray[np.uint8]) -> int:
        """Add an image, and return how many images of its shape wait now."""
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
