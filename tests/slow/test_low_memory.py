"""Machines that run low on memory: Ray's memory monitor kills the workers, and the command says so and what helps."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from prepared import prepared_run
from raylabel.dataset.synthetic.generate import generate
from raylabel.run.folder import RunFolder
from runs import start, wait_for, write_config

pytestmark = pytest.mark.slow

# Any memory in use is too much: the monitor kills one worker after another.
ALWAYS_LOW = {"memory_usage_threshold": 0.001, "memory_monitor_refresh_ms": 100}


@pytest.fixture
def low_on_memory() -> Iterator[str]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "_system_config": ALWAYS_LOW})
    yield cluster.address
    cluster.shutdown()


def test_a_line_says_that_workers_are_killed_for_memory(tmp_path: Path, low_on_memory: str) -> None:
    generate(tmp_path, num_images=60, num_classes=6, image_size=64)
    config, path = write_config(tmp_path, tmp_path, "fakes:SlowSegmenter", shard_size=40, num_workers=1)
    run: RunFolder = prepared_run(config, tmp_path / "run")
    Path(run.path("calibration", "artifact.json")).unlink()
    log = tmp_path / "log.txt"
    with log.open("w") as stream:
        env = {**os.environ, "RAY_ADDRESS": low_on_memory}
        driver = start("calibrate", path, "--out", run.uri, env=env, output=stream)
    try:
        wait_for(lambda: "were killed because their machine ran low on memory (" in log.read_text(), process=driver)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    [line, *_] = [line for line in log.read_text().splitlines() if "were killed because" in line]
    assert line.startswith("calibrate: ")
    assert "Raise label.memory_gb, so that fewer workers share a machine" in line
