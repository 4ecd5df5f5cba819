"""Run a worker class over shards, in an actor pool of Ray Data. One-line errors come back unchanged."""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import pyarrow as pa
import ray
from numpy.typing import NDArray

from raylabel.cluster.capacity import resolve_workers, torch_threads
from raylabel.cluster.memory import GB, killed_for_memory, killed_text
from raylabel.cluster.shard_attempts import MAX_DEATHS, ShardAttempts
from raylabel.cluster.shard_blocks import shard_blocks
from raylabel.cluster.worker_watch import WorkerWatch
from raylabel.config import Config, config_dict
from raylabel.errors import InputError, ModelError, StorageError
from raylabel.threads import every


def row_shards(rows: Sequence[int], shard_size: int) -> list[dict[str, Any]]:
    """Cut rows of an annotated split into shards."""
    return [
        {"shard_id": start // shard_size, "rows": list(rows[start : start + shard_size])}
        for start in range(0, len(rows), shard_size)
    ]


WATCH_SECONDS = 30.0
"""Seconds between two looks at workers that have not started, or were killed."""


def map_shards(
    worker: type,
    *,
    config: Config,
    worker_args: Mapping[str, Any],
    shards: Sequence[Mapping[str, Any]],
    title: str = "workers",
) -> Iterator[pa.Table]:
    """Run a worker class over shards, in actors. A shard is one row, and one actor does the whole shard's work.

    Args:
        worker: a class whose instances take one shard, as a dict, and return an Arrow table. If it counts attempts at a
            shard itself, it says so by an attribute `counts_attempts`.
        config: its `label` section sets the number of actors and the resources of each. Workers get it as the argument
            `config`, a plain dict in which `auto` is replaced by numbers.
        worker_args: the other keyword arguments of the worker's constructor.
        shards: JSON-able descriptions, each with a `shard_id`.
        title: name of the work, for the lines that say why workers have not started or were killed.

    Yields:
        The tables, in the order in which they are finished.

    Raises:
        InputError: the cluster is too small, or a worker met bad input. It is a ModelError if a model failed.
        StorageError: a disk or store failed a worker, and all retries failed.
    """
    if not shards:
        return
    label = resolve_workers(config.label, num_shards=len(shards))
    assert isinstance(label.num_workers, int)
    arguments = {"config": config_dict(replace(config, label=label)), **worker_args}
    counts_attempts = getattr(worker, "counts_attempts", False)
    attempts = None if counts_attempts else ShardAttempts.remote()  # type: ignore[attr-defined]  # of ray.remote
    watch = WorkerWatch(title, label, worker_args.get("counter"))
    with every(WATCH_SECONDS, watch.look):  # from here on, because Ray's own tasks may be killed for memory, too
        dataset = shard_blocks(shards).map_batches(
            ShardActor,
            fn_constructor_args=(worker, arguments, torch_threads(config.label), attempts),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=label.num_workers),
            num_cpus=label.num_cpus,
            num_gpus=label.num_gpus,
            memory=label.memory_gb * GB,
        )
        tables: Any = dataset.iter_batches(batch_size=None, batch_format="pyarrow")
        for table in tables:
            yield from shard_tables(table)


def shard_tables(batch: pa.Table) -> Iterator[pa.Table]:
    """Yield the tables that workers returned, from an output of ShardActor. Raises the error that it holds instead."""
    if _ERROR in batch.column_names:
        kind, message, traceback = (batch[name][0].as_py() for name in (_ERROR, "message", "traceback"))
        raise ModelError(message, traceback) if traceback else _ERRORS[kind](message)
    for row in range(batch.num_rows):
        yield pa.Table.from_struct_array(batch[_ROWS].slice(row, 1).combine_chunks().flatten())


_ROWS = "rows"
_ERROR = "error"
_ERRORS = {one.__name__: one for one in (InputError, StorageError)}


class ShardActor:
    """An adapter of a worker to Ray Data's batches of one row. The table of a shard travels as one row too.

    Blocks of the data set are aimed at one byte (`shard_blocks`), so every row that an actor returns becomes a block.

    One-line errors go to the driver as data, because Ray keeps only the text of an exception. The worker is built at
    its first shard, so that errors of its constructor go the same way.
    """

    def __init__(self, worker: type, arguments: dict[str, Any], num_threads: int, attempts: Any = None) -> None:
        import torch  # here, because the driver needs no torch and would wait seconds for it

        torch.set_num_threads(num_threads)
        self._attempts = attempts
        if counter := arguments.get("counter"):
            counter.start.remote(1, uuid.uuid4().int, 0)
        self._build = partial(worker, **arguments)

    @cached_property
    def _worker(self) -> Any:
        return self._build()

    def __call__(self, batch: dict[str, NDArray[Any]]) -> pa.Table:
        [shard] = batch["shard"]
        try:
            table = self._made(json.loads(shard))
        except (InputError, StorageError) as error:
            return _error_table(error)
        offsets = pa.array([0, table.num_rows], pa.int32())
        return pa.table({_ROWS: pa.ListArray.from_arrays(offsets, table.to_struct_array().combine_chunks())})

    def _made(self, shard: dict[str, Any]) -> pa.Table:
        if self._attempts is None:
            return self._worker(shard)
        num_deaths = ray.get(self._attempts.begin.remote(shard["shard_id"]))
        if num_deaths >= MAX_DEATHS:
            killed = list(killed_for_memory().values())
            why = f" {killed_text(killed, setting='label.memory_gb')}." if killed else ""
            raise InputError(f"{num_deaths} workers died at shard {shard['shard_id']}, and none finished it.{why}")
        table = self._worker(shard)
        self._attempts.finish.remote(shard["shard_id"])
        return table


def _error_table(error: InputError | StorageError) -> pa.Table:
    kind = InputError if isinstance(error, InputError) else StorageError  # because only these two are known by name
    traceback = error.traceback if isinstance(error, ModelError) else None
    columns = {_ERROR: [kind.__name__], "message": [str(error)], "traceback": pa.array([traceback], pa.string())}
    return pa.table(columns)
