"""A saved segmenter over shards of images: the predictor inside an actor, and the Ray Data graph around it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from numpy.typing import NDArray
from ray.exceptions import RayError

from raylabel.dataset.images import ImageError, read_image
from raylabel.errors import InputError
from raylabel.instances import Instances
from raylabel.models.saved import load_segmenter
from raylabel.pipeline.session import check_pool_fits

DECODING_THREADS = 4


def map_shards(
    worker: type,
    *,
    worker_args: Mapping[str, Any],
    shards: Sequence[Mapping[str, Any]],
    key: str,
    num_workers: int,
    num_cpus: float,
    num_gpus: float,
) -> Iterator[pa.Table]:
    """Run an actor class over shards; a shard is one row, and the actor does the whole shard's work.

    Args:
        worker: a class whose instances take one shard, as a dict, and return an Arrow table.
        worker_args: keyword arguments of its constructor.
        shards: JSON-able descriptions.
        key: the setting to name where the cluster is too small.
        num_workers, num_cpus, num_gpus: actors, and what each reserves.

    Yields:
        the tables, in the order in which they are finished.

    Raises:
        InputError: the cluster is too small.
    """
    if not shards:
        return
    num_workers = min(num_workers, len(shards))
    check_pool_fits(key, num_workers=num_workers, num_cpus=num_cpus, num_gpus=num_gpus)
    rows = [{"shard": json.dumps(shard)} for shard in shards]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _ShardActor,
        fn_constructor_args=(worker, dict(worker_args)),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=num_workers),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
    )
    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")
    except RayError as error:
        if (refusal := _input_error(error)) is not None:
            raise refusal from error
        raise


def _input_error(error: BaseException | None) -> InputError | None:
    """Bad input that a worker met, inside of what Ray wraps around it."""
    while error is not None:
        # Ray's own subclass of InputError holds the worker's traceback as its text, and the original as its cause.
        original = getattr(error, "cause", None)
        if type(error) is InputError:
            return error
        error = original or error.__cause__
    return None


class _ShardActor:
    """Adapts a worker to Ray Data's batches of one row."""

    def __init__(self, worker: type, worker_args: dict[str, Any]) -> None:
        self._worker = worker(**worker_args)

    def __call__(self, batch: dict[str, NDArray[Any]]) -> pa.Table:
        [shard] = batch["shard"]
        return self._worker(json.loads(shard))


class Predictor:
    """A saved segmenter on this worker's device, fed by decoding threads.

    Args:
        model_uri: folder of the saved model.
        use_gpu: predict on CUDA, with automatic mixed precision.
        batch_size: images a forward pass.
        score_threshold, max_per_image: as of Segmenter.predict.
        max_pixels: larger images are refused before they are decoded.
    """

    def __init__(
        self,
        model_uri: str,
        *,
        use_gpu: bool,
        batch_size: int,
        score_threshold: float,
        max_per_image: int,
        max_pixels: int,
    ) -> None:
        self.segmenter, self.description = load_segmenter(model_uri)
        self.device = torch.device("cuda" if use_gpu else "cpu")
        self.segmenter.to(self.device).eval()
        self._batch_size, self._max_pixels = batch_size, max_pixels
        self._limits: dict[str, Any] = {"score_threshold": score_threshold, "max_per_image": max_per_image}

    @property
    def num_classes(self) -> int:
        """Classes without background."""
        return self.segmenter.num_classes

    def __call__(self, uris: Sequence[str]) -> Iterator[Instances | ImageError]:
        """What the model says of each image, or why it can't be read; in order, a few batches decoded ahead."""
        for batch in self._decoded_batches(uris):
            tensors = [self.to_tensor(image) for image in batch if not isinstance(image, ImageError)]
            predictions = iter(self._predict(tensors) if tensors else [])
            for image in batch:
                yield image if isinstance(image, ImageError) else next(predictions)

    def to_tensor(self, image_HW3: NDArray[np.uint8]) -> torch.Tensor:
        """(3, H, W) float32 in [0, 1] on the device."""
        return torch.from_numpy(image_HW3).to(self.device).permute(2, 0, 1).float().div_(255)

    def _predict(self, tensors: list[torch.Tensor]) -> list[Instances]:
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
            return self.segmenter.predict(tensors, **self._limits)

    def _decoded_batches(self, uris: Sequence[str]) -> Iterator[list[NDArray[np.uint8] | ImageError]]:
        with ThreadPoolExecutor(DECODING_THREADS) as threads:
            remaining = iter(uris)
            ahead = [threads.submit(self._read, uri) for uri in islice(remaining, 2 * self._batch_size)]
            while ahead:
                batch, ahead = ahead[: self._batch_size], ahead[self._batch_size :]
                images = [future.result() for future in batch]
                ahead += [threads.submit(self._read, uri) for uri in islice(remaining, self._batch_size)]
                yield images

    def _read(self, uri: str) -> NDArray[np.uint8] | ImageError:
        try:
            return read_image(uri, max_pixels=self._max_pixels)
        except ImageError as error:
            return error
