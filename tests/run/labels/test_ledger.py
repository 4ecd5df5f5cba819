"""The ledger agrees with the committed shards, whatever it held before."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raylabel.files.storage import commit_table, read_table
from raylabel.run.folder import RunFolder
from raylabel.run.labels import ledger as module
from raylabel.run.labels.ledger import Ledger, read_ledger
from raylabel.run.labels.shards import committed_shards, shard_uri
from raylabel.schema import LABELS, SHARDS


def commit_shard(run: RunFolder, shard_id: int, *, num_quarantined: int = 0) -> pa.Table:
    """Commit a shard, and return the row that its worker sends."""
    row: dict[str, Any] = {"shard_id": shard_id, "num_images": 10, "num_instances": shard_id}
    row |= {"num_quarantined": num_quarantined, "seconds": 1.5, "host": "here", "finished_at": 7.0}
    schema = LABELS.with_metadata({name: str(value) for name, value in row.items()})
    commit_table(shard_uri(run, shard_id), pa.Table.from_pylist([], schema=schema))
    return pa.Table.from_pylist([row])


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(str(tmp_path))


def ids(run: RunFolder) -> list[int]:
    return read_ledger(run, committed_shards(run))["shard_id"].to_pylist()


def test_rows_come_from_the_shards_where_the_ledger_lacks_them(run: RunFolder) -> None:
    rows = [commit_shard(run, shard_id) for shard_id in range(40)]
    ledger = Ledger(run, dict(list(committed_shards(run).items())[:25]))
    assert (ledger.num_images, ledger.num_quarantined) == (250, 0)
    ledger.write()
    assert len(read_table(run.path("labels", "shards.parquet"))) == 25
    found = read_ledger(run, committed_shards(run))
    assert found.schema.equals(SHARDS)
    assert found.select(rows[0].column_names).to_pylist() == pa.concat_tables(rows).to_pylist()
    assert found["read_seconds"].null_count == 40, "unknown for shards whose metadata lack it"


def test_shards_that_are_gone_do_not_count(run: RunFolder) -> None:
    for shard_id in range(5):
        commit_shard(run, shard_id)
    Ledger(run, committed_shards(run)).write()
    Path(shard_uri(run, 2)).unlink()
    assert ids(run) == [0, 1, 3, 4]
    assert Ledger(run, committed_shards(run)).num_images == 40


def test_shards_are_added_as_they_come(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WRITE_SECONDS", 0.0)
    ledger = Ledger(run, {})
    for shard_id in (3, 0, 2):
        ledger.add(commit_shard(run, shard_id, num_quarantined=shard_id))
    assert (ledger.num_images, ledger.num_quarantined) == (30, 5)
    assert ledger.shards_with_quarantined() == [2, 3]
    ledger.write()
    assert read_table(run.path("labels", "shards.parquet"))["shard_id"].to_pylist() == [0, 2, 3]
    Path(run.path("labels", "shards.parquet")).unlink()
    assert ids(run) == [0, 2, 3]


def test_it_is_written_seldom(run: RunFolder) -> None:
    ledger = Ledger(run, {})
    ledger.add(commit_shard(run, 0))
    ledger.add(commit_shard(run, 1))
    assert read_table(run.path("labels", "shards.parquet"))["shard_id"].to_pylist() == [0]
    assert ids(run) == [0, 1]
