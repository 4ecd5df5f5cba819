"""A saved segmenter over shards of images: the predictor inside an actor, and the Ray Data graph around it."""

import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from numpy.typing import NDArray

from raylabel.config import Config, LabelConfig, config_dict
from raylabel.dataset.images import ImageError
from raylabel.errors import InputError, StorageError
from raylabel.instances import Instances
from raylabel.models.saved import load_segmenter
from raylabel.pipeline.batches import batches_by_size
from raylabel.pipeline.decoding import ImageSource, build_decoder
from raylabel.pipeline.phases import PhaseSeconds
from raylabel.pipeline.shard_blocks import shard_blocks
from raylabel.pipeline.worker_share import resolve_workers, torch_threads
from raylabel.threads import one_ahead


def row_shards(rows: Sequence[int], shard_size: int) -> list[dict[str, Any]]:
    """Rows of an annotated split, cut into shards."""
    return [
        {"shard_id": start // shard_size, "rows": list(rows[start : start + shard_size])}
        for start in range(0, len(rows), shard_size)
    ]


def map_shards(
    worker: type, *, config: Config, worker_args: Mapping[str, Any], shards: Sequence[Mapping[str, Any]]
) -> Iterator[pa.Table]:
    """Run an actor class over shards; a shard is one row, and the actor does the whole shard's work.

    Args:
        worker: a class whose instances take one shard, as a dict, and return an Arrow table.
        config: its `label` says how many actors, and what each reserves. They get it as the argument `config`, a plain
            dict in which these numbers are known.
        worker_args: the other keyword arguments of the worker's constructor.
        shards: JSON-able descriptions.

    Yields:
        the tables, in the order in which they are finished.

    Raises:
        InputError: the cluster is too small, or a worker met bad input.
        StorageError: a disk or store failed a worker for longer than trying again lasted.
    """
    if not shards:
        return
    label = resolve_workers(config.label, num_shards=len(shards))
    assert isinstance(label.num_workers, int)
    arguments = {"config": config_dict(replace(config, label=label)), **worker_args}
    dataset = shard_blocks(shards).map_batches(
        _ShardActor,
        fn_constructor_args=(worker, arguments, torch_threads(config.label)),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=label.num_workers),
        num_cpus=label.num_cpus,
        num_gpus=label.num_gpus,
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

    Errors of one line go to the driver as data: of an exception Ray keeps only the text. The worker is built at its
    first shard, so that what it refuses goes the same way.
    """

    def __init__(self, worker: type, arguments: dict[str, Any], num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        self._build = partial(worker, **arguments)

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
    """A saved segmenter on this worker's device, fed by a decoder.

    Args:
        model_uri: folder of the saved model.
        config: `label` says device, batches, decoding and limits of what is predicted, `data` how large images may be.
        score_threshold: in place of `label.score_threshold`.

    Attributes:
        seconds: phases `read`, the wait for decoded images, and `predict`.

    Raises:
        InputError: the worker should have a GPU, but has none.
    """

    def __init__(self, model_uri: str, config: Config, *, score_threshold: float | None = None) -> None:
        self.device = _device(config.label)
        self.segmenter, self.description = load_segmenter(model_uri)
        self.segmenter.to(self.device).eval()
        self.seconds = PhaseSeconds()
        self._decoder = build_decoder(config)
        self._batch_size = config.label.batch_size
        self._limits: dict[str, Any] = {
            "score_threshold": config.label.score_threshold if score_threshold is None else score_threshold,
            "max_per_image": config.label.max_per_image,
        }

    @property
    def num_classes(self) -> int:
        """Classes without background."""
        return self.segmenter.num_classes

    def __call__(self, sources: Sequence[ImageSource]) -> Iterator[Instances | ImageError]:
        """What the model says of each image, or why it can't be used; in order."""
        max_pixels = max(1, self._decoder.lookahead.max_pixels // 2)
        batches = one_ahead(batches_by_size(self._decoder(sources), max_images=self._batch_size, max_pixels=max_pixels))
        found: dict[int, Instances | ImageError] = {}
        position = 0
        while True:
            with self.seconds.phase("read"):
                positions, batch = next(batches, ([], []))
            if not positions:
                return
            if isinstance(batch, ImageError):
                found[positions[0]] = batch
            else:
                with self.seconds.phase("predict"):
                    found.update(zip(positions, self._predict(batch), strict=True))
            while position in found:
                yield found.pop(position)
                position += 1

    def _predict(self, images: list[NDArray[np.uint8]]) -> list[Instances]:
        """Of one batch; its list is emptied, so that the decoded images are gone while the model is at work."""
        is_cuda = self.device.type == "cuda"
        batch_NHW3 = torch.empty((len(images), *images[0].shape), dtype=torch.uint8, pin_memory=is_cuda)
        np.stack(images, out=batch_NHW3.numpy())
        images.clear()
        # Bytes go to the device, from pinned memory without waiting; numbers four times as large are made there.
        on_device = batch_NHW3.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=is_cuda):
            return self.segmenter.predict(list(on_device), **self._limits)


def _device(label: LabelConfig) -> torch.device:
    if label.num_gpus > 0 and not torch.cuda.is_available():
        raise InputError(
            f"label.num_gpus: {label.num_gpus:g} GPUs a worker asked for, but torch {torch.__version__} sees no CUDA "
            f"device on {socket.gethostname()}; set it to 0, or install a torch and a driver that fit the GPUs"
        )
    return torch.device("cuda" if label.num_gpus > 0 else "cpu")
