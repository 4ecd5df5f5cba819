"""Decoding ahead of the model, by threads of the worker or by Ray tasks anywhere on the cluster.

Images in flight are bounded by number and by pixels. Decoders yield images in their order, not in the order of
completion. Batches, and with them the last bits of predictions, therefore do not depend on timing.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import WorkerCrashedError

from raylabel.config import LabelConfig
from raylabel.dataset.content import content_digest
from raylabel.dataset.image_source import ImageSource, decode_source
from raylabel.dataset.images import ImageError, read_content
from raylabel.run.labels.attempts import KILLED_ITS_WORKER

Decoded = NDArray[np.uint8] | ImageError
"""(H, W, 3) RGB, or the error if there is no image."""


class ReadImage(NamedTuple):
    """What reading one image gave.

    Attributes:
        image: the image, or the error why it can't be used.
        content: `content_digest` of the image's file. None for a file that was not read.
    """

    image: Decoded
    content: int | None = None


Refusal = Callable[[int, int], ImageError | None]
"""Takes the position and the content digest of an image, and returns why the image is refused, or None."""


_PIXELS_AHEAD = 1 << 25
"""Largest number of pixels that a worker has in flight, 100 MB."""

_THREADS = 4
_PIXELS_A_TASK = 1 << 22
_IMAGES_A_TASK = 8
_TASK_CPUS = 0.5
"""CPUs per task. A task waits for the store half of its time or more."""
_STORE_SHARE = 0.5
"""Share of a node's object store for the images that all its workers have in flight.

Half as much again may wait for a batch.
"""


class Decoder(Protocol):
    """A reader and decoder of images, ahead of the caller.

    Attributes:
        lookahead: how many images may be in flight.
    """

    lookahead: "Lookahead"

    def __call__(self, sources: Sequence[ImageSource]) -> Iterator[tuple[int, ReadImage]]:
        """Yield the position and image of each source, in order.

        Raises:
            StorageError: the disk or the network failed. The image may be fine.
        """
        ...


def build_decoder(label: LabelConfig, *, max_pixels: int) -> Decoder:
    """Build the decoder that `label.decoding` names.

    Decoding by tasks needs a number in `label.num_workers`, and must run inside a Ray worker.

    Args:
        label: how images are decoded, and for how many workers.
        max_pixels: larger images are refused. See `read_image`.
    """
    # Three batches: one for the model, one that is gathered meanwhile, and one that keeps the decoders busy.
    images_ahead = 3 * label.batch_size
    by_tasks = label.decoding == "tasks" or (label.decoding == "auto" and label.num_gpus > 0)
    if not by_tasks:
        return ThreadDecoder(max_pixels, Lookahead(max_images=images_ahead, max_pixels=_PIXELS_AHEAD))
    assert isinstance(label.num_workers, int)
    share = min(_PIXELS_AHEAD, int(_STORE_SHARE * _store_bytes_a_worker(label.num_workers) / 3))
    return TaskDecoder(max_pixels, Lookahead(max_images=images_ahead, max_pixels=share))


@dataclass
class Lookahead:
    """The number of images that may be in flight. The next images count as large as the largest image so far.

    Attributes:
        max_images, max_pixels: the bounds. One image may always be in flight.
        largest: pixels of the largest image so far, 0 before the first image.
    """

    max_images: int
    max_pixels: int
    largest: int = 0

    def saw(self, image: Decoded) -> None:
        """Record the size of a decoded image."""
        if not isinstance(image, ImageError):
            self.largest = max(self.largest, image.shape[0] * image.shape[1])

    @property
    def num_images(self) -> int:
        """Number of images that may be in flight."""
        # Two before the first image, because its size is not known yet.
        return max(1, min(self.max_images, self.max_pixels // self.largest if self.largest else 2))

    @property
    def num_images_a_task(self) -> int:
        """Number of images per task: several if they are small, because each task costs a millisecond."""
        fitting = min(_IMAGES_A_TASK, _PIXELS_A_TASK // self.largest) if self.largest else 1
        return max(1, min(fitting, self.num_images // 2))


class ThreadDecoder:
    """A decoder with threads of this process. They run in parallel because Pillow's decoders release Python's lock.

    Args:
        max_pixels: see `read_image`.
        lookahead: how many images may be in flight.
    """

    def __init__(self, max_pixels: int, lookahead: Lookahead) -> None:
        self._max_pixels, self.lookahead = max_pixels, lookahead
        self._threads = ThreadPoolExecutor(_THREADS)

    def __call__(self, sources: Sequence[ImageSource]) -> Iterator[tuple[int, ReadImage]]:
        ahead: deque[Any] = deque()
        submitted = 0
        try:
            for position in range(len(sources)):
                while submitted < len(sources) and len(ahead) < self.lookahead.num_images:
                    ahead.append(self._threads.submit(read_one, sources[submitted], self._max_pixels))
                    submitted += 1
                read = ahead.popleft().result()
                self.lookahead.saw(read.image)
                yield position, read
                del read  # so that the caller alone holds its memory while the next image is decoded
        finally:
            for future in ahead:
                future.cancel()


class TaskDecoder:
    """A decoder with Ray tasks of a few images each, on any CPU of the cluster, beside the accelerators.

    Ray retries a task whose process dies. If all retries die, the task's images are decoded one by one. An image whose
    own task still dies is given up.

    Args:
        max_pixels, lookahead: same as for ThreadDecoder.
    """

    def __init__(self, max_pixels: int, lookahead: Lookahead) -> None:
        self._max_pixels, self.lookahead = max_pixels, lookahead

    def __call__(self, sources: Sequence[ImageSource]) -> Iterator[tuple[int, ReadImage]]:
        ahead: deque[tuple[Sequence[ImageSource], list[Any]]] = deque()
        num_ahead = submitted = position = 0
        while position < len(sources):
            while submitted < len(sources) and num_ahead < self.lookahead.num_images:
                part = sources[submitted : submitted + self.lookahead.num_images_a_task]
                ahead.append((part, self._submit(part)))
                submitted, num_ahead = submitted + len(part), num_ahead + len(part)
            part, references = ahead.popleft()
            images = deque(self._results(part, references))
            del references  # so that the object store frees the images one by one
            num_ahead -= len(part)
            while images:
                self.lookahead.saw(images[0].image)
                yield position, images.popleft()
                position += 1

    def _submit(self, sources: Sequence[ImageSource]) -> list[Any]:
        references = _decode_task.options(num_returns=len(sources)).remote(list(sources), self._max_pixels)
        return references if isinstance(references, list) else [references]

    def _results(self, sources: Sequence[ImageSource], references: list[Any]) -> list[ReadImage]:
        try:
            return ray.get(references)
        except WorkerCrashedError:
            if len(sources) == 1:
                return [ReadImage(ImageError(KILLED_ITS_WORKER))]
            return [image for one in sources for image in self._results([one], self._submit([one]))]


@ray.remote(num_cpus=_TASK_CPUS)
def _decode_task(sources: list[ImageSource], max_pixels: int) -> Any:
    images = [read_one(source, max_pixels) for source in sources]
    return images if len(images) > 1 else images[0]


def read_one(source: ImageSource, max_pixels: int) -> ReadImage:
    """Read one image as the model sees it, or return the error why it can't be used."""
    content: int | None = None
    try:
        encoded = read_content(source.uri, max_pixels=max_pixels)
        content = content_digest(encoded)
        return ReadImage(decode_source(encoded, source, max_pixels=max_pixels), content)
    except ImageError as error:
        return ReadImage(error, content)


def _store_bytes_a_worker(num_workers: int) -> float:
    """Return the object store bytes per worker on the node with the smallest object store."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    store_bytes = min(resources["object_store_memory"] for resources in nodes)
    return store_bytes / -(-num_workers // len(nodes))
