"""The row of an image that killed its workers says so, and how many of them Ray killed for want of memory."""

from pathlib import Path

import pytest

from prepared import prepared_run
from raylabel.config import Config
from raylabel.run.folder import RunFolder
from raylabel.run.labels.attempts import ShardAttempt
from raylabel.stages import label, label_worker
from stored_labels import label_rows


@pytest.mark.usefixtures("without_ray")
def test_deaths_for_memory_are_told(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sixth(run: RunFolder, shard_id: int, driver_id: str, worker_id: str) -> ShardAttempt:
        folder = run.path("labels", "attempts", driver_id, str(shard_id))
        deaths = {3: ["a", "b", "c"]} if shard_id == 1 else {}
        return ShardAttempt(folder=folder, number=6, deaths=deaths, survived=frozenset())

    monkeypatch.setattr(label_worker, "begin_attempt", sixth)
    monkeypatch.setattr(label_worker, "killed_for_memory", lambda: {"x": "9 of 9 GB in use", "b": "7.1 of 8 GB in use"})
    run = prepared_run(config, tmp_path / "run")
    label.run_stage(config, run)
    [bad] = [row for row in label_rows(run) if row["status"] != "ok"]
    assert bad["status"] == (
        "killed its worker: Ray killed 1 of 3 workers at this image because their machine ran low on memory (7.1 of 8 "
        "GB in use)"
    )
