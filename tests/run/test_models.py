"""The models of a run: the names here are those of the files that others write."""

from pathlib import Path

import pytest

from fakes import FakeSegmenter
from raylabel.models.saved import save_segmenter
from raylabel.run.folder import RunFolder
from raylabel.run.models import (
    MODEL_FILES,
    TEACHER,
    has_model,
    is_saved_as,
    load_training_log,
    num_model_classes,
)
from raylabel.training.log import TrainingLog


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(str(tmp_path))


def test_a_saved_model_has_these_files(run: RunFolder) -> None:
    assert not has_model(run, TEACHER)
    save_segmenter(FakeSegmenter(num_classes=4), run.path(TEACHER), {"model": "fakes:FakeSegmenter"})
    assert {path.name for path in Path(run.path(TEACHER)).iterdir()} == set(MODEL_FILES)
    assert has_model(run, TEACHER)
    assert num_model_classes(run, TEACHER) == 4
    assert not is_saved_as(run, TEACHER, "another")


def test_a_training_log_is_read_as_written(run: RunFolder) -> None:
    assert load_training_log(run, TEACHER) == []
    log = TrainingLog(run.path(TEACHER), finished_steps=0)
    log.add(10, {"loss": 1.5})
    log.close()
    [row] = load_training_log(run, TEACHER)
    assert (row["step"], row["loss"]) == (10, 1.5)
