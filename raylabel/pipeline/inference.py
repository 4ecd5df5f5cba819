"""A saved segmenter over shards of images: the predictor inside an actor, and the Ray Data graph around it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from numpy.typing import NDArray

from raylabel.config import Config, LabelConfig
from raylabel.dataset.images import ImageError, read_image
from raylabel.errors import InputError, StorageError
from raylabel.instances import Instances
from raylabel.models.saved import load_segmenter
from raylabel.pipeline.session import check_pool_fits

DECODING_THREADS = 4

_SHARDS_A_BLOCK = 256


def row_shards(rows: Sequence[int], shard_size: int) -> list[dict[str, Any]]:
    """Rows of an annotated split, cut into shards."""
    return [
        {"shard_id": start // shard_size, "rows": list(rows[start : start + shard_size])}
        for start in range(0, len(rows), shard_size)
    ]


def map_shards(
    worker: type, *, worker_args: Mapping[str, Any], shards: Sequence[Mapping[str, Any]], label: LabelConfig
) -> Iterator[pa.Table]:
    """Run an actor class over shards; a shard is one row, and the actor does the whole shard's work.

    Args:
        worker: a class whose instances take one shard, as a dict, and return an Arrow table.
        worker_args: keyword arguments of its constructor.
        shards: JSON-able descriptions.
        label: how many actors, and what each reserves.

    Yields:
        the tables, in the order in which they are finished.

    Raises:
        InputError: the cluster is too small, or a worker met bad input.
        StorageError: a disk or store failed a worker for longer than trying again lasted.
    """
    if not shards:
        return
    num_workers = min(label.num_workers, len(shards))
    check_pool_fits(num_workers=num_workers, num_cpus=label.num_cpus, num_gpus=label.num_gpus)
    # A block a shard, so that any actor can take it; but they are cut from a few blocks, and only as they are needed:
    # thousands that are made beforehand take seconds and the driver's memory.
    blocks: list[Any] = [
        ray.put(pa.table({"shard": [json.dumps(shard) for shard in shards[start : start + _SHARDS_A_BLOCK]]}))
        for start in range(0, len(shards), _SHARDS_A_BLOCK)
    ]
    dataset = (
        ray.data.from_arrow_refs(blocks)
        .repartition(target_num_rows_per_block=1)
        .map_batches(
            _ShardActor,
            fn_constructor_args=(worker, dict(worker_args)),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=num_workers),
            num_cpus=label.num_cpus,
            num_gpus=label.num_gpus,
        )
    )
    tables: Any = dataset.iter_batches(batch_size=None, batch_format="pyarrow")
    for table in tables:
        if _ERROR in table.column_names:
            raise _ERRORS[table[_ERROR][0].as_py()](table["message"][0].as_py())
        yield table


_ERROR = "error"
_ERRORS = {one.__name__: one for one in (InputError, StorageError)}


class _ShardActor:
    """Adapts a worker to Ray Data's batches of one row.

    Errors of one line go to the driver as data: of an exception Ray keeps only the text.
    """

    def __init__(self, worker: type, worker_args: dict[str, Any]) -> None:
        self._build = partial(worker, **worker_args)

    @cached_property
    def _worker(self) -> Any:
        return self._build()

    def __call__(self, batch: dict[str, NDArray[Any]]) -> pa.Table:
        [shard] = batch["shard"]
        try:
            return self._worker(json.loads(shard))
        except (InputError, StorageError) as error:
            return pa.table({_ERROR: [type(error).__name__], "message": [str(error)]})


class Predictor:
    """A saved segmenter on this worker's device, fed by decoding threads.

    Args:
        model_uri: folder of the saved model.
        config: `label` says device, batch size and limits of what is predicted, `data` how large images may be.
        score_threshold: in place of `label.score_threshold`.
        as_displayed: turn images by their EXIF orientation, as is done with the pool's.
    """

    def __init__(
        self, model_uri: str, config: Config, *, score_threshold: float | None = None, as_displayed: bool = False
    ) -> None:
        self._as_displayed = as_displayed
        self.segmenter, self.description = load_segmenter(model_uri)
        self.device = torch.device("cuda" if config.label.num_gpus > 0 else "cpu")
        self.segmenter.to(self.device).eval()
        self._batch_size, self._max_pixels = config.label.batch_size, config.data.max_image_pixels
        self._limits: dict[str, Any] = {
            "score_threshold": config.label.score_threshold if score_threshold is None else score_threshold,
            "max_per_image": config.label.max_per_image,
        }

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
            return read_image(uri, max_pixels=self._max_pixels, as_displayed=self._as_displayed)
        except ImageError as error:
            return error
