"""A training's batches, read and decoded by Ray Data outside of the training workers."""

import pickle
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa
import ray
from ray.data import DataContext

from raylabel.cluster.capacity import READER_CPUS, READER_GB
from raylabel.cluster.map_shards import ShardActor, shard_tables
from raylabel.cluster.memory import GB
from raylabel.cluster.shard_blocks import shard_blocks
from raylabel.training.batch_source import BatchSource
from raylabel.training.batches import Batch
from raylabel.training.job import SegmenterBuilder, TrainJob

JobBuilder = Callable[[], tuple[SegmenterBuilder, TrainJob]]
"""Returns the builder of a model and its job, inside a worker. It is sent there, so it must be light: a partial of a
function."""

MAX_READERS = 8
"""Most readers per training worker. Ray Data starts readers as needed, as far as there are CPUs."""


class TaskBatches:
    """The batches of a BatchSource in the order of the steps, read ahead by Ray Data.

    Ray Data reads ahead as far as its share of the object store allows. Each step's batch is one block.

    Args:
        build: builds the training's job. Each reader calls it once.
        num_parts: see BatchSource.
        places: (step, part) of every batch that will be asked for, in order.
    """

    def __init__(self, build: JobBuilder, num_parts: int, places: Iterable[tuple[int, int]]) -> None:
        DataContext.get_current().execution_options.preserve_order = True
        dataset = shard_blocks([{"place": place} for place in places]).map_batches(
            ShardActor,
            fn_constructor_args=(_ReadBatch, {"build": build, "num_parts": num_parts}, 1, None),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=MAX_READERS),
            num_cpus=READER_CPUS,
            memory=READER_GB * GB,
        )
        self._tables: Any = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow"))

    def batch(self, step: int, part: int) -> Batch:
        """See BatchSource.

        Raises:
            InputError: an image can't be read.
        """
        [table] = shard_tables(next(self._tables))
        place = table["place"][0].as_py()
        assert place == [step, part], f"batches come in order: {place}, not {[step, part]}"
        # Unpickling is safe, because the bytes come from raylabel's own reader through the object store alone.
        batch: Batch = pickle.loads(table["batch"][0].as_buffer())
        return batch


class _ReadBatch:
    """The reader's worker that reads batches."""

    def __init__(self, *, build: JobBuilder, num_parts: int) -> None:
        _, job = build()
        self._source = BatchSource(job, num_parts)

    def __call__(self, shard: dict[str, Any]) -> pa.Table:
        batch = self._source.batch(*shard["place"])
        return pa.table(
            {"place": [shard["place"]], "batch": pa.array([pickle.dumps(batch, protocol=5)], pa.large_binary())}
        )
