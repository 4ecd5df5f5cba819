"""`raylabel status` from the files alone: made-up runs, as a driver in another process leaves them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raylabel.cli import main
from raylabel.config import Config, dump_config
from raylabel.files.committing import commit_bytes
from raylabel.files.json_files import commit_json
from raylabel.files.tables import commit_table
from raylabel.progress import Figures
from raylabel.report.console import format_status
from raylabel.run.folder import STAGES, RunFolder
from raylabel.run.labels.ledger import Ledger
from raylabel.run.labels.shards import shard_uri
from raylabel.run.live_files import commit_progress
from raylabel.schema import LABELS, SHARDS
from raylabel.stages.status import run_status

SHARD = {
    "num_images": 8,
    "num_instances": 30,
    "num_quarantined": 1,
    "num_in_validation": 2,
    "seconds": 10.0,
    "read_seconds": 1.0,
    "predict_seconds": 7.0,
    "encode_seconds": 1.0,
    "write_seconds": 0.5,
    "host": "node-1",
    "finished_at": 1.7e9,
}


def commit_shard(run: RunFolder, row: dict[str, Any], *, has_phases: bool = True) -> None:
    """Commit a shard without rows, because status reads its metadata only."""
    few = ("shard_id", "num_images", "num_instances", "num_quarantined", "seconds")
    names = [name for name in SHARDS.names if name in row and (has_phases or name in few)]
    metadata = {"fingerprint": "f"} | {name: str(row[name]) for name in names}
    commit_table(shard_uri(run, row["shard_id"]), LABELS.with_metadata(metadata).empty_table())


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """Make the ledger rows of four shards. The third is slow to read."""
    rows = [SHARD | {"shard_id": shard_id, "host": f"node-{shard_id}"} for shard_id in range(4)]
    rows[2] |= {"seconds": 39.0, "read_seconds": 30.0}
    return rows


@pytest.fixture
def run(config: Config, tmp_path: Path, rows: list[dict[str, Any]]) -> RunFolder:
    """A run that is labelling. Its ledger knows two of the four shards, and one that is gone."""
    run = RunFolder(str(tmp_path / "run"))
    commit_bytes(run.path("config.yaml"), dump_config(config).encode())
    commit_json(run.path("labels", "started.json"), {"fingerprint": "f"})
    commit_json(run.path("labels", "plan.json"), {"num_shards": 5, "num_images": 40})
    for row in rows:
        commit_shard(run, row)
    ledger = [rows[0], rows[2], SHARD | {"shard_id": 4, "num_images": 1000}]
    commit_table(run.path("labels", "shards.parquet"), pa.Table.from_pylist(ledger, schema=SHARDS))
    return run


def test_a_shard_counts_only_if_its_file_is_there(run: RunFolder) -> None:
    labels = run_status(run)["labels"]
    assert (labels["shards_done"], labels["shards_total"]) == (4, 5)
    assert (labels["images_done"], labels["images_total"]) == (32, 40)
    assert (labels["num_instances"], labels["num_quarantined"]) == (120, 4)


def test_a_replaced_shard_counts_as_it_is(run: RunFolder, rows: list[dict[str, Any]]) -> None:
    Ledger(run).write()
    commit_shard(run, rows[2] | {"num_quarantined": 8, "num_instances": 0})
    labels = run_status(run)["labels"]
    assert (labels["shards_done"], labels["num_instances"], labels["num_quarantined"]) == (4, 90, 11)
    Path(shard_uri(run, 2)).unlink()
    labels = run_status(run)["labels"]
    assert (labels["shards_done"], labels["num_instances"], labels["num_quarantined"]) == (3, 90, 3)


def test_where_the_time_goes(run: RunFolder) -> None:
    status = run_status(run)
    expected = {"read": 33.0, "predict": 28.0, "encode": 4.0, "write": 2.0, "other": 2.0}
    assert status["labels"]["seconds_by_phase"] == pytest.approx(expected)
    line = "where the time goes: read 48%, predict 41%, encode 6%, write 3%, other 3% of 69 s of workers"
    assert line in format_status(status)
    assert "node-" not in format_status(status), "shards are listed only on request"


def test_slowest_shards_come_first(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", run.uri, "--json", "--shards", "3"]) == 0
    slowest = json.loads(capsys.readouterr().out)["labels"]["slowest_shards"]
    assert [one["shard_id"] for one in slowest] == [2, 0, 1]
    assert slowest[0]["images_per_second"] == pytest.approx(8 / 39)
    assert main(["status", run.uri, "--shards"]) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if "node-" in line]
    assert [line.split() for line in table[:1]] == [
        ["2", "8", "0.2", "39.00", "30.00", "7.00", "1.00", "0.50", "node-2"]
    ]
    assert len(table) == 4
    assert main(["status", run.uri, "--shards", "-1"]) == 2


def test_shards_that_did_not_say_their_phases(config: Config, tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path / "run"))
    commit_bytes(run.path("config.yaml"), dump_config(config).encode())
    commit_json(run.path("labels", "plan.json"), {"num_shards": 1, "num_images": 8})
    assert run_status(run)["labels"]["shards_done"] == 0
    commit_shard(run, SHARD | {"shard_id": 0}, has_phases=False)
    status = run_status(run, num_slowest=1)
    assert status["labels"]["seconds_by_phase"]["other"] == 10
    assert "10.00        –        –        –        –  –" in format_status(status)


def test_figures_of_the_driver_at_work(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    figures = Figures(
        unit="images",
        done=34,
        total=40,
        per_second=2.0,
        instances_per_second=7.5,
        num_instances=130,
        num_quarantined=4,
        seconds_left=3.0,
        seconds_stalled=0.1,
    )
    commit_progress(run, "labels", label="label", figures=figures)
    assert "label: 34/40 images  2.0 images/s  7.5 instances/s  0:03 left  4 quarantined  (0 s ago)" in format_status(
        run_status(run)
    )
    assert main(["status", run.uri, "--json"]) == 0
    progress = json.loads(capsys.readouterr().out)["progress"]["label"]
    assert progress["figures"]["seconds_left"] == 3.0
    assert progress["age_seconds"] < 10
    run.commit_artifact("labels", {"seconds": 1.0, "fingerprint": "f"})
    assert run_status(run)["progress"] == {}, "a finished stage has no driver"


def test_watching_ends_with_the_run(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pauses: list[float] = []

    def work(seconds: float) -> None:
        """Stand in for a pause. Two stages finish in the first one, and all others in the second."""
        done = STAGES[:2] if not pauses else STAGES
        for spec in done:
            run.commit_artifact(spec.folder, {"seconds": 1.0, "fingerprint": "f"})
        pauses.append(seconds)

    monkeypatch.setattr("raylabel.cli.time.sleep", work)
    assert main(["status", run.uri, "--json", "--watch", "7.5"]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    states = [[stage["state"] for stage in one["stages"]].count("finished") for one in shown]
    assert states == [0, 2, len(STAGES)]
    assert pauses == [7.5, 7.5]


def test_ctrl_c_is_the_usual_end_of_watching(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("raylabel.cli.time.sleep", stop)
    assert main(["status", run.uri, "--watch"]) == 0
    assert "stopped" not in capsys.readouterr().err
    assert main(["status", run.uri, "--watch", "0"]) == 2
