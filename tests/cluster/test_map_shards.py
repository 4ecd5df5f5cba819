"""The tables of workers arrive whole, one per shard, and their one-line errors come back as they are."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray

import raylabel.cluster.map_shards as map_shards_module
from raylabel.cluster.map_shards import ShardActor, map_shards, shard_tables
from raylabel.cluster.progress_counter import LiveCounter
from raylabel.config import Config
from raylabel.errors import InputError, ModelError, NoDetectionError, StorageError

SCHEMA = pa.schema([("shard", pa.int32()), ("name", pa.string()), ("masks", pa.list_(pa.binary()))])


class Worker:
    """Returns as many rows as the shard asks for."""

    def __init__(self, *, config: dict[str, Any], counter: Any = None) -> None:
        pass

    def __call__(self, shard: dict[str, Any]) -> pa.Table:
        num = shard["num_rows"]
        columns = {"shard": [shard["shard_id"]] * num, "name": ["a"] * num, "masks": [[b"1", b"2"]] * num}
        return pa.concat_tables([pa.table(columns, schema=SCHEMA), SCHEMA.empty_table()])


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_table_of_many_rows_is_one_output(config: Config) -> None:
    """Each row would otherwise be a block of its own, which takes Ray Data minutes per thousand."""
    config = replace(config, label=replace(config.label, num_workers=2, num_cpus=0.5))
    shards = [{"shard_id": number, "num_rows": num} for number, num in enumerate([500, 0, 1])]
    tables = list(map_shards(Worker, config=config, worker_args={}, shards=shards))
    assert sorted(table.num_rows for table in tables) == [0, 1, 500]
    assert all(table.schema == SCHEMA for table in tables)
    assert {shard for table in tables for shard in table["shard"].to_pylist()} == {0, 2}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InputError("a.jpg: damaged"), InputError),
        (NoDetectionError("nothing found"), InputError),
        (StorageError("a.jpg: out of reach"), StorageError),
        (ModelError("a.jpg: the model fails", "Traceback\n..."), ModelError),
    ],
)
def test_one_line_errors_of_workers_come_back(error: Exception, kind: type[Exception]) -> None:
    class FailingWorker:
        def __call__(self, shard: dict[str, Any]) -> pa.Table:
            raise error

    actor = ShardActor(FailingWorker, {}, 1)
    table = actor({"shard": np.array([json.dumps({"shard_id": 0})])})
    with pytest.raises(kind) as raised:
        next(shard_tables(table))
    assert type(raised.value) is kind
    assert str(raised.value) == str(error)
    assert getattr(raised.value, "traceback", None) == getattr(error, "traceback", None)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_workers_wait_for_memory_and_say_so(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another job holds nearly all memory of the machine. Ray starts no worker before it lets go."""
    monkeypatch.setattr(map_shards_module, "WATCH_SECONDS", 0.5)
    held = Holder.options(memory=int(ray.cluster_resources()["memory"] - 0.5e9)).remote()
    ray.get(held.ready.remote())
    counter = LiveCounter.remote()
    config = replace(config, label=replace(config.label, num_workers=1, num_cpus=0.5, memory_gb=1.0))
    shards = [{"shard_id": 0, "num_rows": 1}]
    tables = map_shards(Worker, config=config, worker_args={"counter": counter}, shards=shards, title="label")
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(list, tables)
        deadline, lines = time.monotonic() + 60, ""
        while "waiting for" not in lines:
            assert time.monotonic() < deadline, lines
            lines += capsys.readouterr().out
            time.sleep(0.2)
        assert not found.done()
        ray.kill(held)
        assert [table.num_rows for table in found.result(timeout=120)] == [1]
    assert re.search(
        r"label: waiting for 1 of 1 workers, each with 0\.5 CPUs, 0 GPUs and 1 GB of memory\. Free in the cluster, on "
        r"all machines together: [\d.]+ CPUs, 1 GPUs and 0\.5 GB",
        lines,
    )


@ray.remote(num_cpus=0)
class Holder:
    """An actor of another job."""

    def ready(self) -> bool:
        return True
