"""A whole run whose progress counters are killed again and again, in every stage, and its workers now and then."""

import random
import subprocess
import time
from pathlib import Path

import pytest

from raylabel.dataset.synthetic.generate import generate
from raylabel.files.json_files import read_json
from raylabel.run.folder import STAGES, RunFolder
from runs import actors, finish, quarantined_or_labelled, start

pytestmark = pytest.mark.slow

CONFIG = """
data: {labelled: labelled.json, images: images, calibration: calibration.json, validation: val.json, pool: pool}
smoothing: {warmup_steps: 4}
teacher: {model: "fakes:SlowSegmenter", steps: 8, batch_size: 4, num_workers: 1}
label: {shard_size: 4, batch_size: 2, score_threshold: 0.1, num_workers: 1}
selection: {min_score: 0.1}
student: {model: "fakes:SlowSegmenter", steps: 8, labelled_per_batch: 2, unlabelled_per_batch: 2, num_workers: 1}
"""
WORKER_SECONDS = 12.0
"""Seconds between two deaths of workers. A new one needs several to start."""


def kill_while_it_runs(driver: subprocess.Popen[str]) -> int:
    """Kill counters, and now and then a worker, until the driver ends. Returns the number of killed counters."""
    rng, num_killed, next_worker = random.Random(0), 0, time.monotonic() + WORKER_SECONDS
    while driver.poll() is None:
        time.sleep(rng.uniform(0.2, 2.0))
        doomed = actors("LiveCounter", driver.pid) if driver.poll() is None else []
        num_killed += len(doomed)
        if time.monotonic() > next_worker and driver.poll() is None:
            next_worker = time.monotonic() + WORKER_SECONDS
            doomed += actors("ShardActor", driver.pid)[:1]
        for process in doomed:
            process.kill()
    return num_killed


def test_counters_killed_in_every_stage(tmp_path: Path) -> None:
    generate(tmp_path, num_images=60, num_classes=6, image_size=64)
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    run = RunFolder(str(tmp_path / "run"))
    log = tmp_path / "log.txt"
    with log.open("w") as stream:
        driver = start("run", str(path), "--out", run.uri, output=stream)
        num_killed = kill_while_it_runs(driver)
    assert driver.returncode == 0, log.read_text()
    assert num_killed >= 5
    assert "Traceback" not in log.read_text()
    for spec in STAGES:
        assert run.artifact(spec.folder) is not None
    rows = quarantined_or_labelled(run)
    assert len(rows) == len(list((tmp_path / "pool").iterdir()))
    assert {row["status"] for row in rows} == {"ok"}
    assert read_json(run.path("labels", "artifact.json"))["num_quarantined"] == 0
    again = start("run", str(path), "--out", run.uri)
    assert finish(again).count("finished before, skipped") >= len(STAGES) - 1
