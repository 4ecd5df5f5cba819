"""Decoding ahead of the model: images in order, by threads of the worker or by Ray tasks anywhere on the cluster.

What is in flight is bounded by number and by pixels. The order is that of the images whatever is ready first, so that
batches, and with them the last bits of predictions, do not depend on timing.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import WorkerCrashedError

from raylabel.config import LabelConfig
from raylabel.dataset.images import ImageError, check_size, read_annotated_image, read_image
from raylabel.run.labels.attempts import KILLED_ITS_WORKER

Decoded = NDArray[np.uint8] | ImageError
"""(H, W, 3) RGB, or why there is none."""


class ImageSource(NamedTuple):
    """Where an image is, and which way up it is to be read.

    Attributes:
        uri: as of `ImageReader`.
        annotated_size_hw: height and width that its annotations have; None of the pool's, which are turned as viewers
            show them.
    """

    uri: str
    annotated_size_hw: tuple[int, int] | None = None


_PIXELS_AHEAD = 1 << 25
"""Most pixels that a worker has in flight, 100 MB."""

_THREADS = 4
_PIXELS_A_TASK = 1 << 22
_IMAGES_A_TASK = 8
_TASK_CPUS = 0.5
"""A task waits for the store half of its time, or more."""
_STORE_SHARE = 0.5
"""Of a node's object store, for what all workers on it have in flight; half as much again may wait for a batch."""


class Decoder(Protocol):
    """Reads and decodes images ahead of whoever takes them.

    Attributes:
        lookahead: what may be in flight.
    """

    lookahead: "Lookahead"

    def __call__(self, sources: Sequence[ImageSource]) -> Iterator[tuple[int, Decoded]]:
        """Position and image of each source, in order.

        Raises:
            StorageError: the disk or the network failed, which says nothing of an image.
        """
        ...


def build_decoder(label: LabelConfig, *, max_pixels: int) -> Decoder:
    """Build the decoder that `label.decoding` names.

    Decoding by tasks needs `label.num_workers` as a number, and a Ray worker around it.

    Args:
        label: how images are decoded, and for how many workers.
        max_pixels: larger images are refused. See `read_image`.
    """
    # A batch for the model, one that is gathered meanwhile, and what keeps the decoders busy until it is asked for.
    images_ahead = 3 * label.batch_size
    by_tasks = label.decoding == "tasks" or (label.decoding == "auto" and label.num_gpus > 0)
    if not by_tasks:
        return ThreadDecoder(max_pixels, Lookahead(max_images=images_ahead, max_pixels=_PIXELS_AHEAD))
    assert isinstance(label.num_workers, int)
    share = min(_PIXELS_AHEAD, int(_STORE_SHARE * _store_bytes_a_worker(label.num_workers) / 3))
    return TaskDecoder(max_pixels, Lookahead(max_images=images_ahead, max_pixels=share))


@dataclass
class Lookahead:
    """How many images may be in flight: the largest that was seen so far says how large the next ones may be.

    Attributes:
        max_images, max_pixels: the bounds; one image may always be in flight.
        largest: pixels of the largest image so far, 0 where none was seen.
    """

    max_images: int
    max_pixels: int
    largest: int = 0

    def saw(self, image: Decoded) -> None:
        """An image was decoded."""
        if not isinstance(image, ImageError):
            self.largest = max(self.largest, image.shape[0] * image.shape[1])

    @property
    def num_images(self) -> int:
        """How many may be in flight."""
        # The first image tells more; until then two are enough to begin with.
        return max(1, min(self.max_images, self.max_pixels // self.largest if self.largest else 2))

    @property
    def num_images_a_task(self) -> int:
        """How many to decode together: a handful where they are small, since each task costs a millisecond."""
        fitting = min(_IMAGES_A_TASK, _PIXELS_A_TASK // self.largest) if self.largest else 1
        return max(1, min(fitting, self.num_images // 2))


class ThreadDecoder:
    """Threads of this process; Pillow's decoders leave Python to the others meanwhile.

    Args:
        max_pixels: as of `read_image`.
        lookahead: what may be in flight.
    """

    def __init__(self, max_pixels: int, lookahead: Lookahead) -> None:
        self._max_pixels, self.lookahead = max_pixels, lookahead
        self._threads = ThreadPoolExecutor(_THREADS)

    def __call__(self, sources: Sequence[ImageSource]) -> Iterator[tuple[int, Decoded]]:
        ahead: deque[Any] = deque()
        submitted = 0
        try:
            for position in range(len(sources)):
                while submitted < len(sources) and len(ahead) < self.lookahead.num_images:
                    ahead.append(self._threads.submit(read_source, sources[submitted], self._max_pixels))
                    submitted += 1
                image = ahead.popleft().result()
                self.lookahead.saw(image)
                yield position, image
                del image  # its memory is the taker's alone while the next is waited for
        finally:
            for future in ahead:
                future.cancel()


class TaskDecoder:
    """Ray tasks of a few images each, on any CPU of the cluster: a stage of its own beside the accelerators.

    A task whose process dies is tried again by Ray; if it dies for good its images are taken one by one, and the one
    that still dies is given up.

    Args:
        max_pixels, lookahead: as of ThreadDecoder.
    """

    def __init__(self, max_pixels: int, lookahead: Lookahead) -> None:
        self._max_pixels, self.lookahead = max_pixels, lookahead

    def __call__(self, sources: Sequence[ImageSource]) -> Iterator[tuple[int, Decoded]]:
        ahead: deque[tuple[Sequence[ImageSource], list[Any]]] = deque()
        num_ahead = submitted = position = 0
        while position < len(sources):
            while submitted < len(sources) and num_ahead < self.lookahead.num_images:
                part = sources[submitted : submitted + self.lookahead.num_images_a_task]
                ahead.append((part, self._submit(part)))
                submitted, num_ahead = submitted + len(part), num_ahead + len(part)
            part, references = ahead.popleft()
            images = deque(self._results(part, references))
            del references  # what is taken is then freed in the object store image by image
            num_ahead -= len(part)
            while images:
                self.lookahead.saw(images[0])
                yield position, images.popleft()
                position += 1

    def _submit(self, sources: Sequence[ImageSource]) -> list[Any]:
        references = _decode_task.options(num_returns=len(sources)).remote(list(sources), self._max_pixels)
        return references if isinstance(references, list) else [references]

    def _results(self, sources: Sequence[ImageSource], references: list[Any]) -> list[Decoded]:
        try:
            return ray.get(references)
        except WorkerCrashedError:
            if len(sources) == 1:
                return [ImageError(KILLED_ITS_WORKER)]
            return [image for one in sources for image in self._results([one], self._submit([one]))]


@ray.remote(num_cpus=_TASK_CPUS)
def _decode_task(sources: list[ImageSource], max_pixels: int) -> Any:
    images = [read_source(source, max_pixels) for source in sources]
    return images if len(images) > 1 else images[0]


def read_source(source: ImageSource, max_pixels: int) -> Decoded:
    """One image as the model sees it, or why it can't be used."""
    uri, size_hw = source
    try:
        if size_hw is None:
            return read_image(uri, max_pixels=max_pixels, as_displayed=True)
        image = read_annotated_image(uri, size_hw, max_pixels=max_pixels)
        check_size(image, size_hw)
    except ImageError as error:
        return error
    return image


def _store_bytes_a_worker(num_workers: int) -> float:
    """Object store of the node that has least of it, shared among the workers on a node."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    store_bytes = min(resources["object_store_memory"] for resources in nodes)
    return store_bytes / -(-num_workers // len(nodes))
