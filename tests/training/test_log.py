"""The log of a training: repeated steps replace older rows, and TensorBoard reads the same figures."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from raylabel.errors import StorageError
from raylabel.files.reading import list_files, read_bytes
from raylabel.training import log as module
from raylabel.training.log import TrainingLog


def logged(uri: str, steps: range, *, finished_steps: int = 0, scale: float = 1.0) -> None:
    log = TrainingLog(uri, finished_steps=finished_steps)
    for step in steps:
        log.add(step, {"loss": step * scale, "labelled_classes": 1e-7 * step, "ema_AP": 0.25})
    log.close()


def rows(uri: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in read_bytes(f"{uri}/metrics.jsonl").decode().splitlines()]


@pytest.fixture
def tensorboard() -> Callable[[Path], dict[str, dict[int, float]]]:
    """Reads a folder with TensorBoard: tag -> step -> value."""
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def read(folder: Path) -> dict[str, dict[int, float]]:
        events = module.EventAccumulator(str(folder)).Reload()
        return {tag: {one.step: one.value for one in events.Scalars(tag)} for tag in events.Tags()["scalars"]}

    return read


def test_what_is_made_again_replaces_what_was_there(tmp_path: Path, tensorboard: Callable) -> None:
    """The process dies after step 5. The last checkpoint is of step 3."""
    logged(str(tmp_path), range(1, 6))
    logged(str(tmp_path), range(4, 8), finished_steps=3, scale=10)
    expected = {1: 1.0, 2: 2.0, 3: 3.0, 4: 40.0, 5: 50.0, 6: 60.0, 7: 70.0}
    assert {row["step"]: row["loss"] for row in rows(str(tmp_path))} == expected
    assert rows(str(tmp_path))[0]["labelled_classes"] == 1e-7, "small figures are not rounded to nothing"
    seen = tensorboard(tmp_path / "tensorboard")
    assert seen["training/loss"] == expected
    assert seen["ema/AP"] == dict.fromkeys(expected, 0.25)
    assert set(seen) == {"training/loss", "labelled/classes", "ema/AP"}


def test_a_training_that_begins_anew_keeps_nothing(tmp_path: Path, tensorboard: Callable) -> None:
    logged(str(tmp_path), range(1, 6))
    time.sleep(1.1)  # because event files are named by the second
    logged(str(tmp_path), range(1, 3))
    assert [row["step"] for row in rows(str(tmp_path))] == [1, 2]
    assert set(tensorboard(tmp_path / "tensorboard")["training/loss"]) == {1, 2}


def test_a_remote_run_gets_the_event_file_as_a_whole(tmp_path: Path, tensorboard: Callable) -> None:
    uri = "memory://training-log/teacher"
    logged(uri, range(1, 4))
    [events] = list_files(f"{uri}/tensorboard")
    (tmp_path / events.base_name).write_bytes(read_bytes(f"{uri}/tensorboard/{events.base_name}"))
    assert tensorboard(tmp_path)["training/loss"] == {1: 1.0, 2: 2.0, 3: 3.0}
    assert [row["step"] for row in rows(uri)] == [1, 2, 3]


def test_files_are_brought_up_to_date_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMMIT_SECONDS", -1.0)
    log = TrainingLog(str(tmp_path), finished_steps=0)
    for step in (1, 2, 3):
        log.add(step, {"loss": 1.0})
    log._wait()
    assert [row["step"] for row in rows(str(tmp_path))] == [1, 2, 3]
    log.close()


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(uri: str, content: bytes) -> None:
        raise StorageError(f"{uri}: the disk is full")

    monkeypatch.setattr(module, "commit_bytes", full)
    log = TrainingLog(str(tmp_path), finished_steps=0)
    with pytest.raises(StorageError, match=r"metrics\.jsonl: the disk is full"):
        log.close()
