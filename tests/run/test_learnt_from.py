"""The images and steps behind each model of a run, by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raylabel.config import Config
from raylabel.files.committing import commit_bytes
from raylabel.run.folder import RunFolder
from raylabel.run.learnt_from import LearntFrom, learnt_from
from raylabel.run.models import BASELINE, MODEL_FILES
from raylabel.run.rounds import round_run


def distilled(folder: Path, *, rounds: int = 1, with_baseline: bool = True) -> RunFolder:
    """Write what a run keeps of a teacher of 100 steps, and of students of 7 steps per round."""
    run = RunFolder(str(folder))
    run.commit_artifact("teacher", {"steps": 100, "num_images": 50})
    for number in range(1, rounds + 1):
        student = {"steps": 7, "num_labelled_images": 62, "num_calibration_images": 12, "num_pool_images": 300 + number}
        round_run(run, number).commit_artifact("student", student)
    if with_baseline:
        for name in MODEL_FILES:
            commit_bytes(run.path(BASELINE, name), b"")
    return run


@pytest.mark.parametrize(
    ("folds", "student", "steps"),
    [
        (0, {}, {"teacher": 100, "supervised": 107, "student": 107}),
        (3, {}, {"teacher": 100, "supervised": 107, "student": 407}),
        (0, {"init": "weights"}, {"teacher": 100, "supervised": 7, "student": 107}),
        (0, {"rounds": 3}, {"teacher": 100, "supervised": 107, "student": 107, "student-2": 114, "student-3": 121}),
    ],
)
def test_steps_include_those_of_the_models_that_a_model_needed(
    folds: int, student: dict[str, Any], steps: dict[str, int], config: Config, tmp_path: Path
) -> None:
    settings = replace(config.student, **student)
    config = replace(config, student=settings, calibration=replace(config.calibration, folds=folds))
    found = dict(learnt_from(config, distilled(tmp_path, rounds=settings.rounds)))
    assert {name: one.steps for name, one in found.items()} == steps


def test_images_of_each_kind(config: Config, tmp_path: Path) -> None:
    found = dict(learnt_from(config, distilled(tmp_path)))
    assert found["teacher"] == LearntFrom(labelled=50, calibration=0, pool=0, steps=100)
    assert found["supervised"] == LearntFrom(labelled=50, calibration=12, pool=0, steps=107)
    assert found["student"] == LearntFrom(labelled=50, calibration=12, pool=301, steps=107)
    assert found["student"].text() == "50 labelled + 12 calibration + 301 pool images, 107 steps"
    without = dict(learnt_from(config, distilled(tmp_path / "other", with_baseline=False)))
    assert set(without) == {"teacher", "student"}
