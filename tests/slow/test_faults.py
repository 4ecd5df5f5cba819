"""Disturbed labelling makes the rows of an undisturbed run, each once. It repeats no finished shard and leaves no mess.

Other faults have other tests: a killed calibration actor (tests/cluster/test_live_calibration.py), a changed config
(tests/stages/test_label.py), a full disk and a failing store (in this folder).
"""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from prepared import prepared_run
from raylabel.config import Config
from raylabel.dataset.synthetic.generate import generate
from raylabel.files.json_files import read_json
from raylabel.run.folder import RunFolder
from raylabel.run.labels.shards import committed_shards
from raylabel.run.lease import read_lease
from runs import MINUTES, actors, finish, kill, quarantined_or_labelled, start, wait_for, write_config

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Undisturbed:
    """A small pool, and the outcome of an undisturbed run on it."""

    config: Config
    path: str
    run: RunFolder

    def label(self, run: RunFolder, **env: str) -> subprocess.Popen[str]:
        """Start the label command on another run."""
        return start("label", self.path, "--out", run.uri, env={**os.environ, **env})

    def check(self, run: RunFolder) -> None:
        """Check that the other run has the same outcome."""
        assert quarantined_or_labelled(run) == quarantined_or_labelled(self.run)
        assert list(committed_shards(run)) == list(committed_shards(self.run))
        ours, theirs = (read_json(one.path("labels", "artifact.json")) for one in (run, self.run))
        for name in ("num_images", "num_instances", "num_quarantined", "selection"):
            assert ours[name] == theirs[name]
        assert not list(Path(run.uri).rglob("*.tmp"))
        assert not Path(run.path("labels", "attempts")).exists()
        assert not Path(run.path("driver.json")).exists()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    generate(folder, num_images=500, num_classes=6, image_size=64)
    config, path = write_config(folder, folder, "fakes:SlowSegmenter", shard_size=4, batch_size=2, score_threshold=0.1)
    run = prepared_run(config, folder / "run")
    finish(start("label", path, "--out", run.uri))
    assert len(committed_shards(run)) >= 50
    assert any(row["instances"] for row in quarantined_or_labelled(run))
    return Undisturbed(config, path, run)


@pytest.fixture
def run(undisturbed: Undisturbed, tmp_path: Path) -> RunFolder:
    return prepared_run(undisturbed.config, tmp_path / "run")


def times(run: RunFolder) -> dict[int, int]:
    return {shard_id: Path(uri).stat().st_mtime_ns for shard_id, uri in committed_shards(run).items()}


def num_committed(run: RunFolder) -> int:
    return len(committed_shards(run))


def test_a_driver_killed_at_five_random_moments(undisturbed: Undisturbed, run: RunFolder) -> None:
    rng = random.Random(0)
    kept: dict[int, int] = {}
    for number in range(5):
        driver, before = undisturbed.label(run), num_committed(run)
        if number == 0:  # while it starts
            wait_for(lambda: read_lease(run), process=driver)
            time.sleep(rng.uniform(0, 3))
        else:
            wanted = before + rng.randint(1, 9)
            wait_for(lambda wanted=wanted: num_committed(run) >= wanted, process=driver)
            time.sleep(rng.uniform(0, 0.15))
        kill(driver)
        now = times(run)
        assert {shard_id: now[shard_id] for shard_id in kept} == kept, "finished shards are not redone"
        assert run.artifact("labels") is None
        kept = now
    assert kept
    finish(undisturbed.label(run))
    after = times(run)
    assert {shard_id: after[shard_id] for shard_id in kept} == kept
    undisturbed.check(run)


def test_twenty_workers_killed(undisturbed: Undisturbed, run: RunFolder) -> None:
    rng = random.Random(1)
    driver = undisturbed.label(run)
    killed: set[Any] = set()
    while len(killed) < 20:
        wait_for(lambda: set(actors("ShardActor", driver.pid)) - killed, process=driver)
        time.sleep(rng.uniform(0, 0.4))
        for worker in set(actors("ShardActor", driver.pid)) - killed:
            worker.kill()
            killed.add(worker)
    assert num_committed(run) < num_committed(undisturbed.run)
    finish(driver)
    assert all(row["status"] == "ok" for row in quarantined_or_labelled(run))
    undisturbed.check(run)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    yield cluster
    cluster.shutdown()


def test_a_node_that_goes_away(undisturbed: Undisturbed, run: RunFolder, cluster: Cluster) -> None:
    node = cluster.add_node(num_cpus=2)
    [raylet] = node.all_processes["raylet"]
    driver = undisturbed.label(run, RAY_ADDRESS=cluster.address)
    wait_for(lambda: actors("ShardActor", raylet.process.pid) and num_committed(run) >= 10, process=driver)
    assert run.artifact("labels") is None
    cluster.remove_node(node, allow_graceful=False)
    finish(driver)
    undisturbed.check(run)


def test_two_that_start_at_once(undisturbed: Undisturbed, run: RunFolder) -> None:
    drivers = [undisturbed.label(run) for _ in range(2)]
    outputs = [driver.communicate(timeout=5 * MINUTES)[0] for driver in drivers]
    codes = [driver.returncode for driver in drivers]
    assert 0 in codes, outputs
    for code, output in zip(codes, outputs, strict=True):
        assert "Traceback" not in output
        if code != 0:
            assert code == 2
            assert output.splitlines()[-1].startswith(f"raylabel: {run.uri}: ")
            assert "is at work on this run" in output.splitlines()[-1]
    undisturbed.check(run)


def press_ctrl_c(driver: subprocess.Popen[str], run: RunFolder) -> None:
    """Interrupt the driver and Ray's processes, as a terminal does.

    An interrupt that meets Ray's C++ code now and then gets lost. The driver then goes on, and the user presses again.
    """
    os.killpg(driver.pid, signal.SIGINT)
    time.sleep(3)
    before = num_committed(run)
    time.sleep(2)
    if driver.poll() is None and num_committed(run) > before:
        os.killpg(driver.pid, signal.SIGINT)


def test_ctrl_c(undisturbed: Undisturbed, run: RunFolder) -> None:
    driver = undisturbed.label(run)
    wait_for(lambda: num_committed(run) >= 10, process=driver)
    press_ctrl_c(driver, run)
    output = finish(driver, code=1)
    # Ray may log remarks about actors that it ends.
    ours = [line for line in output.splitlines() if "(raylet)" not in line]
    assert ours[-1] == "raylabel: stopped; committed work stays. Run the same command again to continue."
    assert "Traceback" not in output
    assert read_lease(run) is None
    kept = times(run)
    assert 10 <= len(kept) < num_committed(undisturbed.run)
    finish(undisturbed.label(run))
    after = times(run)
    assert {shard_id: after[shard_id] for shard_id in kept} == kept, "finished shards are not redone"
    undisturbed.check(run)
