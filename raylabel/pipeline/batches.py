"""Batches of images of equal size from a stream of images of any size."""

from collections.abc import Iterable, Iterator

from raylabel.dataset.images import ImageError
from raylabel.pipeline.decoding import Decoded

_BATCHES_WAITING = 4
"""So many batches' worth of images may wait for others of their size."""


def batches_by_size(
    images: Iterable[tuple[int, Decoded]], *, max_images: int, max_pixels: int
) -> Iterator[tuple[list[int], list[Decoded]]]:
    """Images of equal shape together; what is no image comes by itself.

    Where too many wait for others of their size, those that have waited longest go. What is in a batch depends on the
    order and sizes of the images alone.

    Args:
        images: positions and images.
        max_images: of a batch; four times as many may wait.
        max_pixels: of all images that wait, and so of a batch; but never less than one image.

    Yields:
        positions and images of a batch, in the order in which they came.
    """
    waiting: dict[tuple[int, ...], list[tuple[int, Decoded]]] = {}
    num_waiting = pixels_waiting = 0
    for position, image in images:
        if isinstance(image, ImageError):
            yield [position], [image]
            continue
        shape = image.shape
        waiting.setdefault(shape, []).append((position, image))
        del image  # or the last batch would stay in memory while the next image is waited for
        num_waiting, pixels_waiting = num_waiting + 1, pixels_waiting + shape[0] * shape[1]
        while waiting:
            if len(waiting.get(shape, ())) == max_images:
                ready = shape
            elif num_waiting >= _BATCHES_WAITING * max_images or pixels_waiting >= max_pixels:
                ready = next(iter(waiting))  # sizes are in the order of their first image
            else:
                break
            batch = waiting.pop(ready)
            num_waiting, pixels_waiting = num_waiting - len(batch), pixels_waiting - len(batch) * ready[0] * ready[1]
            yield _unzip(batch)
            del batch
    for shape in list(waiting):
        yield _unzip(waiting.pop(shape))


def _unzip(batch: list[tuple[int, Decoded]]) -> tuple[list[int], list[Decoded]]:
    return [position for position, _ in batch], [image for _, image in batch]
