"""A saved segmenter that predicts images inside an actor, and its seconds per phase."""

import os
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from raylabel.cluster.decoding import Decoded, ReadImage, Refusal, build_decoder
from raylabel.cluster.size_batches import batches_by_size
from raylabel.config import LabelConfig
from raylabel.dataset.image_errors import ModelImageError
from raylabel.dataset.image_source import ImageSource
from raylabel.dataset.images import ImageError
from raylabel.errors import InputError
from raylabel.models.failures import LostDeviceError, call_on_parts
from raylabel.models.predict import predict_pixels
from raylabel.models.saved import load_segmenter
from raylabel.models.tiles import TiledImages
from raylabel.predictions.instances import Instances
from raylabel.threads import one_ahead

_Result = TypeVar("_Result")


class PhaseSeconds:
    """Wall-clock seconds per named phase. Phases must not overlap."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the seconds inside the block to the phase `name`."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - start

    def __getitem__(self, name: str) -> float:
        """Return the seconds of a phase so far, 0 if it never ran."""
        return self._seconds.get(name, 0.0)

    def clear(self) -> None:
        """Set all seconds to 0."""
        self._seconds.clear()


class Predictor:
    """A saved segmenter on this worker's device, fed by a decoder.

    Args:
        model_uri: folder of the saved model.
        label: device, batches, decoding, and limits of the predictions.
        max_pixels: larger images are refused. See `read_image`.
        own_classes: users' classes that the model may have. See `load_segmenter`.
        score_threshold: replaces `label.score_threshold` if given.

    Attributes:
        seconds: seconds of the phases `read` (the wait for decoded images) and `predict`.

    Raises:
        InputError: the worker should have a GPU, but has none.
    """

    def __init__(
        self,
        model_uri: str,
        label: LabelConfig,
        *,
        max_pixels: int,
        own_classes: Collection[str],
        score_threshold: float | None = None,
    ) -> None:
        self.device = _device(label)
        self.segmenter, self.description = load_segmenter(model_uri, own_classes)
        self.segmenter.to(self.device).eval()
        self.seconds = PhaseSeconds()
        self._decoder = build_decoder(label, max_pixels=max_pixels)
        self._batch_size, self._tile = label.batch_size, label.tile
        self._how: dict[str, Any] = {
            "score_threshold": label.score_threshold if score_threshold is None else score_threshold,
            "max_per_image": label.max_per_image,
            "mask_quality": label.mask_quality,
        }

    @property
    def num_classes(self) -> int:
        """Number of classes without background."""
        return self.segmenter.num_classes

    def __call__(
        self, sources: Sequence[ImageSource], *, refuse: Refusal | None = None
    ) -> Iterator[Instances | ImageError]:
        """Yield the model's predictions of each image, or the error why the image can't be used, in order.

        The error is a `ModelImageError` if the model fails at the image. Other images of its batch are not affected.

        Args:
            sources: the images.
            refuse: called with the position and the content of each pool image that was read, from another thread. The
                error that it returns takes the image's place, and nothing is predicted for the image.
        """
        max_pixels = max(1, self._decoder.lookahead.max_pixels // 2)
        tiled = TiledImages(self._tile, max_per_image=self._how["max_per_image"])
        tiles = tiled.cut(_accepted(self._decoder(sources), refuse))
        batches = one_ahead(batches_by_size(tiles, max_images=self._batch_size, max_pixels=max_pixels))
        found: dict[int, Instances | ImageError] = {}
        position = 0
        while True:
            with self.seconds.phase("read"):
                numbers, batch = next(batches, ([], []))
            if not numbers:
                return
            with self.seconds.phase("predict"):
                of_tiles = [batch] if isinstance(batch, ImageError) else self._predict(batch)
                found.update(whole for tile in zip(numbers, of_tiles, strict=True) if (whole := tiled.add(*tile)))
            while position in found:
                yield found.pop(position)
                position += 1

    def _predict(self, images: list[NDArray[np.uint8]]) -> list[Instances | ModelImageError]:
        """Predict one batch. The list is emptied, so that the decoded images free their memory during prediction."""
        batch_NHW3 = torch.empty(
            (len(images), *images[0].shape), dtype=torch.uint8, pin_memory=self.device.type == "cuda"
        )
        np.stack(images, out=batch_NHW3.numpy())
        images.clear()
        return self.call_model(lambda part: self._predict_part(batch_NHW3[part.start : part.stop]), len(batch_NHW3))

    def call_model(
        self, call: Callable[[range], Sequence[_Result]], num_images: int
    ) -> list[_Result | ModelImageError]:
        """Call the model on a batch, see `call_on_parts`. If the device is lost, the process ends.

        Ray then starts another process.
        """
        try:
            return call_on_parts(call, num_images, self.device)
        except LostDeviceError as error:
            # The process ends, because otherwise all its other images would fail. Attempts at a shard find the image.
            print(f"the device of this worker is lost: {error}", file=sys.stderr, flush=True)
            os._exit(1)

    def _predict_part(self, part_NHW3: torch.Tensor) -> list[Instances]:
        return predict_pixels(self.segmenter, part_NHW3, self.device, self._how)


def _accepted(images: Iterator[tuple[int, ReadImage]], refuse: Refusal | None) -> Iterator[tuple[int, Decoded]]:
    for position, (image, content) in images:
        refusal = refuse(position, content) if refuse and content is not None else None
        yield position, image if refusal is None else refusal
        del image  # so that the caller alone holds its memory while the next image is decoded


def _device(label: LabelConfig) -> torch.device:
    if label.num_gpus > 0 and not torch.cuda.is_available():
        raise InputError(
            f"label.num_gpus: torch {torch.__version__} must see a CUDA device on {socket.gethostname()} for "
            f"{label.num_gpus:g} GPUs per worker, got none. Set it to 0, or install a torch and a driver for the GPUs."
        )
    return torch.device("cuda" if label.num_gpus > 0 else "cpu")
