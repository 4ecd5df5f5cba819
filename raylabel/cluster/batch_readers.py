"""A training's batches, read and decoded by Ray Data elsewhere than in the worker that learns from them."""

import pickle
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa
import ray
from ray.data import DataContext

from raylabel.cluster.capacity import READER_CPUS
from raylabel.cluster.map_shards import ShardActor, raise_errors
from raylabel.cluster.shard_blocks import shard_blocks
from raylabel.models.segmenter import Segmenter
from raylabel.training.batch_source import BatchSource
from raylabel.training.batches import Batch
from raylabel.training.job import TrainJob

JobBuilder = Callable[[], tuple[Segmenter, TrainJob]]
"""Builds a segmenter and its job inside a worker; it is sent there, so it must be light: a partial of a function."""

MAX_READERS = 8
"""Actors that read for one worker of a training; Ray Data starts them as they are needed and as there are CPUs."""


class TaskBatches:
    """The batches of a BatchSource, in order, ahead of whoever takes them: as far as Ray Data's share of the object
    store goes. Each step's batch is a block of its own, and the order is that of the steps.

    Args:
        build: the training's job; readers build it once each.
        num_parts: as of BatchSource.
        places: step and part of all that will be asked for, in order.
    """

    def __init__(self, build: JobBuilder, num_parts: int, places: Iterable[tuple[int, int]]) -> None:
        DataContext.get_current().execution_options.preserve_order = True
        dataset = shard_blocks([{"place": place} for place in places]).map_batches(
            ShardActor,
            fn_constructor_args=(_ReadBatch, {"build": build, "num_parts": num_parts}, 1),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=MAX_READERS),
            num_cpus=READER_CPUS,
        )
        self._tables: Any = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow"))

    def batch(self, step: int, part: int) -> Batch:
        """See BatchSource.

        Raises:
            InputError: an image can't be read.
        """
        table = next(self._tables)
        raise_errors(table)
        place = table["place"][0].as_py()
        assert place == [step, part], f"batches come in order: {place}, not {[step, part]}"
        # Of our own reader, through the object store alone, where Ray itself pickles what is not Arrow.
        batch: Batch = pickle.loads(table["batch"][0].as_buffer())
        return batch


class _ReadBatch:
    """Reads batches inside of a reader."""

    def __init__(self, *, build: JobBuilder, num_parts: int) -> None:
        _, job = build()
        self._source = BatchSource(job, num_parts)

    def __call__(self, shard: dict[str, Any]) -> pa.Table:
        batch = self._source.batch(*shard["place"])
        return pa.table(
            {"place": [shard["place"]], "batch": pa.array([pickle.dumps(batch, protocol=5)], pa.large_binary())}
        )
