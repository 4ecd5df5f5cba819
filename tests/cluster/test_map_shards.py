"""The tables of workers arrive whole, one per shard."""

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from raylabel.cluster.map_shards import map_shards
from raylabel.config import Config

pytestmark = pytest.mark.ray

SCHEMA = pa.schema([("shard", pa.int32()), ("name", pa.string()), ("masks", pa.list_(pa.binary()))])


class Worker:
    """Returns as many rows as the shard asks for."""

    def __init__(self, *, config: dict[str, Any]) -> None:
        pass

    def __call__(self, shard: dict[str, Any]) -> pa.Table:
        num = shard["num_rows"]
        columns = {"shard": [shard["shard_id"]] * num, "name": ["a"] * num, "masks": [[b"1", b"2"]] * num}
        return pa.concat_tables([pa.table(columns, schema=SCHEMA), SCHEMA.empty_table()])


@pytest.mark.usefixtures("ray_session")
def test_a_table_of_many_rows_is_one_output(config: Config) -> None:
    """Each row would otherwise be a block of its own, which takes Ray Data minutes per thousand."""
    config = replace(config, label=replace(config.label, num_workers=2, num_cpus=0.5))
    shards = [{"shard_id": number, "num_rows": num} for number, num in enumerate([500, 0, 1])]
    tables = list(map_shards(Worker, config=config, worker_args={}, shards=shards))
    assert sorted(table.num_rows for table in tables) == [0, 1, 500]
    assert all(table.schema == SCHEMA for table in tables)
    assert {shard for table in tables for shard in table["shard"].to_pylist()} == {0, 2}
