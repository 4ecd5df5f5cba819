"""Trainings that are disturbed end as undisturbed ones do."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray  # noqa: F401  # finds psutil
import torch
from runs import finish, kill, wait_for
from toy_driver import slow_job
from toy_training import assert_same_weights

from raylabel.config import TrainingConfig
from raylabel.models.protocols import Segmenter
from raylabel.models.saved import load_segmenter
from raylabel.training.job import TrainContext
from raylabel.training.loop import train

psutil = pytest.importorskip("psutil")  # comes with Ray

pytestmark = pytest.mark.slow


def start(run: Path, settings: dict[str, Any], **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "toy_driver", str(run), json.dumps(settings)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        cwd=Path(__file__).parents[1],
        env={**os.environ, **env},
    )


def undisturbed(settings: dict[str, Any], num_parts: int) -> Segmenter:
    """In this process, without Ray."""
    torch.set_num_threads(1)
    return train(*slow_job(TrainingConfig(**settings)), TrainContext(num_parts=num_parts))


def steps_saved(run: Path) -> list[int]:
    """Newest first."""
    files = (run / "teacher" / "checkpoints").glob("step-*/training.json")
    return sorted((int(file.parent.name.removeprefix("step-")) for file in files), reverse=True)


def last_step(run: Path) -> int:
    return next(iter(steps_saved(run)), 0)


def training_workers(pid: int) -> list[Any]:
    """Processes of training workers below a driver or a raylet."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue  # ended meanwhile
    return found


def test_workers_and_driver_killed(tmp_path: Path) -> None:
    """One worker on the CPU: bit for bit. More workers die than attempts without progress are allowed."""
    settings = {"num_workers": 1, "checkpoint_every": 3, "cpus_per_worker": 1}
    run = tmp_path / "run"
    driver = start(run, settings)
    for reached in (3, 9):
        wait_for(lambda reached=reached: last_step(run) >= reached, process=driver)
        [worker] = training_workers(driver.pid)
        worker.kill()
    wait_for(lambda: last_step(run) >= 15, process=driver)
    kill(driver)
    time.sleep(3)
    assert not (run / "teacher" / "model.json").exists()
    before = last_step(run)
    finish(start(run, settings))
    assert before < 40
    assert not (run / "teacher" / "checkpoints").exists()
    assert_same_weights(load_segmenter(str(run / "teacher"))[0], undisturbed(settings, num_parts=1))
    steps = [json.loads(line)["step"] for line in (run / "teacher" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert steps[-1] == 40
