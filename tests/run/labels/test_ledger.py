"""The ledger agrees with the committed shards, whatever it held before."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raylabel.files.tables import commit_table, read_table, read_table_metadata
from raylabel.run.folder import RunFolder
from raylabel.run.labels import ledger as module
from raylabel.run.labels.ledger import Ledger, read_ledger, renew_sizes
from raylabel.run.labels.shards import shard_sizes, shard_uri
from raylabel.schema import LABELS, SHARDS


def commit_shard(run: RunFolder, shard_id: int, *, num_quarantined: int = 0) -> pa.Table:
    """Commit a shard, and return the row that its worker sends."""
    row: dict[str, Any] = {"shard_id": shard_id, "num_images": 10, "num_instances": shard_id}
    row |= {"num_quarantined": num_quarantined, "seconds": 1.5, "host": "here", "finished_at": 7.0}
    schema = LABELS.with_metadata({name: str(value) for name, value in row.items()})
    num_bytes = commit_table(shard_uri(run, shard_id), pa.Table.from_pylist([], schema=schema))
    return pa.Table.from_pylist([row | {"num_bytes": num_bytes}])


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(str(tmp_path))


def ids(run: RunFolder) -> list[int]:
    return read_ledger(run, shard_sizes(run))["shard_id"].to_pylist()


def test_rows_come_from_the_shards_where_the_ledger_lacks_them(run: RunFolder) -> None:
    rows = [commit_shard(run, shard_id) for shard_id in range(25)]
    ledger = Ledger(run)
    assert (ledger.num_images, ledger.num_quarantined) == (250, 0)
    ledger.write()
    rows += [commit_shard(run, shard_id) for shard_id in range(25, 40)]
    assert len(read_table(run.path("labels", "shards.parquet"))) == 25
    found = read_ledger(run, shard_sizes(run))
    assert found.schema.equals(SHARDS)
    assert found.select(rows[0].column_names).to_pylist() == pa.concat_tables(rows).to_pylist()
    assert found["read_seconds"].null_count == 40, "unknown for shards whose metadata lack it"


def test_shards_that_are_gone_do_not_count(run: RunFolder) -> None:
    for shard_id in range(5):
        commit_shard(run, shard_id)
    Ledger(run).write()
    Path(shard_uri(run, 2)).unlink()
    assert ids(run) == [0, 1, 3, 4]
    assert Ledger(run).num_images == 40


def test_shards_are_added_as_they_come(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WRITE_SECONDS", 0.0)
    ledger = Ledger(run)
    for shard_id in (3, 0, 2):
        ledger.add(commit_shard(run, shard_id, num_quarantined=shard_id))
    assert (ledger.num_images, ledger.num_quarantined) == (30, 5)
    assert ledger.shards_with_quarantined() == [2, 3]
    ledger.write()
    assert read_table(run.path("labels", "shards.parquet"))["shard_id"].to_pylist() == [0, 2, 3]
    Path(run.path("labels", "shards.parquet")).unlink()
    assert ids(run) == [0, 2, 3]


def test_it_is_written_seldom(run: RunFolder) -> None:
    ledger = Ledger(run)
    ledger.add(commit_shard(run, 0))
    ledger.add(commit_shard(run, 1))
    assert read_table(run.path("labels", "shards.parquet"))["shard_id"].to_pylist() == [0]
    assert ids(run) == [0, 1]


def test_a_shard_that_was_replaced_is_read_again(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    for shard_id in range(3):
        commit_shard(run, shard_id)
    Ledger(run).write()
    replaced = commit_shard(run, 1, num_quarantined=1000)
    read = list[str]()

    def noted(uri: str) -> dict[str, str]:
        read.append(uri)
        return read_table_metadata(uri)

    monkeypatch.setattr(module, "read_table_metadata", noted)
    found = read_ledger(run, shard_sizes(run))
    assert found["num_quarantined"].to_pylist() == [0, 1000, 0]
    assert found["num_bytes"][1].as_py() == replaced["num_bytes"][0].as_py()
    assert read == [shard_uri(run, 1)], "the other shards are not read"
    Ledger(run).write()
    assert read_ledger(run, shard_sizes(run)).equals(found)
    assert len(read) == 2, "its new row is in the file"


def test_shards_that_the_run_rewrote_are_not_read_again(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    for shard_id in range(3):
        commit_shard(run, shard_id)
    Ledger(run).write()
    before = read_ledger(run, shard_sizes(run))
    for shard_id in (0, 2):
        table = read_table(shard_uri(run, shard_id))
        commit_table(shard_uri(run, shard_id), table.replace_schema_metadata(table.schema.metadata | {b"more": b"x"}))
    renew_sizes(run)
    monkeypatch.setattr(module, "read_table_metadata", None)
    after = read_ledger(run, shard_sizes(run))
    assert after.drop_columns("num_bytes").equals(before.drop_columns("num_bytes"))
    assert dict(zip(after["shard_id"].to_pylist(), after["num_bytes"].to_pylist(), strict=True)) == shard_sizes(run)


def test_rows_of_earlier_versions_have_no_size_and_count(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [commit_shard(run, shard_id).drop_columns("num_bytes") for shard_id in range(3)]
    commit_table(run.path("labels", "shards.parquet"), pa.concat_tables(rows))
    monkeypatch.setattr(module, "read_table_metadata", None)
    assert ids(run) == [0, 1, 2]
