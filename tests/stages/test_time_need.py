"""`check --time` estimates how long a run takes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raylabel.cli import main
from raylabel.config import Config, load_config
from raylabel.errors import InputError
from raylabel.models.build import build_segmenter
from raylabel.models.saved import save_segmenter
from raylabel.run.folder import STAGES, RunFolder
from raylabel.stages.check import check_run
from raylabel.stages.states import AGAIN, NEW
from raylabel.stages.time_need import Speed, format_time, measure_speed, stage_seconds

SPEED = Speed(teacher_step=1.0, student_step=10.0, image=0.1, num_label_workers=2)
NAMES = [spec.name for spec in STAGES]


def found(**changed: Any) -> dict[str, Any]:
    """What `check` finds in a set of 100 labelled and 10,000 pool images."""
    splits = {name: {"num_images": num} for name, num in (("labelled", 100), ("calibration", 40), ("validation", 60))}
    everything = dict.fromkeys(NAMES, NEW)
    return {"splits": splits, "pool": {"num_images": 10_000}, "stages": everything, **changed}


@pytest.fixture
def config(generated: Path) -> Config:
    return load_config(generated / "config.yaml", {"teacher.steps": "30"})


def test_steps_and_images_count(config: Config, tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    seconds = stage_seconds(config, run, found(), SPEED)
    assert list(seconds) == NAMES
    twice = replace(config, teacher=replace(config.teacher, steps=60))
    assert stage_seconds(twice, run, found(), SPEED)["teacher"] - seconds["teacher"] == pytest.approx(30 * 1.0)
    larger = stage_seconds(config, run, found(pool={"num_images": 20_000}), SPEED)
    assert larger["label"] - seconds["label"] == pytest.approx(10_000 * 0.1 / 2)
    alone = replace(config, student=replace(config.student, supervised_baseline=False))
    saved = seconds["distill"] - stage_seconds(alone, run, found(), SPEED)["distill"]
    assert saved == pytest.approx(config.student.steps * 10.0)
    folds = replace(config, calibration=replace(config.calibration, folds=3))
    assert stage_seconds(folds, run, found(), SPEED)["calibrate"] > seconds["calibrate"] + 3 * 30 * 1.0


def test_finished_stages_take_no_time(config: Config, tmp_path: Path) -> None:
    stages = dict.fromkeys(NAMES, "finished") | {"label": AGAIN}
    seconds = stage_seconds(config, RunFolder(str(tmp_path)), found(stages=stages), SPEED)
    assert list(seconds) == ["label"]
    assert format_time({}).endswith("all         0 s")


def test_the_price_follows_the_time() -> None:
    text = format_time({"teacher": 3590.0}, price_per_hour=2.5)
    assert "  all         60 min" in text
    assert text.endswith("2.50, at 2.5 per hour")


def test_a_speed_is_measured_and_nothing_is_kept(config: Config, tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path / "run"))
    seconds = stage_seconds(config, run, check_run(config, run), measure_speed(config, run))
    assert all(0 < one < 600 for one in seconds.values())
    assert run.artifact("teacher") is None


def test_a_given_teacher_is_not_trained(generated: Path, tmp_path: Path) -> None:
    segmenter = build_segmenter("fakes:FakeSegmenter", num_classes=6)
    save_segmenter(segmenter, str(tmp_path / "saved"), {"model": "fakes:FakeSegmenter"})
    given = {"teacher.steps": "0", "teacher.weights": str(tmp_path / "saved"), "student.init": "weights"}
    config = load_config(generated / "config.yaml", given)
    assert measure_speed(config, RunFolder(str(tmp_path / "run"))).teacher_step == 0


def test_gpus_are_tried_where_they_are(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    on_gpus = replace(config, teacher=replace(config.teacher, gpus_per_worker=1))
    with pytest.raises(InputError, match=r"--time: teacher\.gpus_per_worker is 1, but this machine has no GPU"):
        measure_speed(on_gpus, RunFolder(str(tmp_path)))


def test_a_price_without_a_time_is_refused(generated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(generated / "config.yaml"), "--price-per-hour", "3"]) == 2
    assert "--price-per-hour goes with --time" in capsys.readouterr().err
