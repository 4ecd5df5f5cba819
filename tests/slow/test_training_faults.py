"""Disturbed trainings end with the same weights as undisturbed ones."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.cluster_utils import Cluster

from raylabel.config import TrainingConfig
from raylabel.files.json_files import read_json
from raylabel.models.saved import load_segmenter
from raylabel.models.segmenter import Segmenter
from raylabel.training.job import TrainContext
from raylabel.training.loop import train
from runs import actors, finish, kill, wait_for
from toy_driver import STEPS, toy_job
from toy_training import assert_same_weights

pytestmark = pytest.mark.slow

TOLERANCE = 1e-4
"""Largest difference of weights after 40 steps between two workers and one.

It measures 0, because two floats have the same sum in either order.
"""


def start(run: Path, settings: dict[str, Any], *, pause: float = 0.05, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "toy_driver", str(run), json.dumps(settings), str(pause)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        cwd=Path(__file__).parents[1] / "support",
        env={**os.environ, **env},
    )


def undisturbed(settings: dict[str, Any], num_parts: int) -> Segmenter:
    """Train in this process, without Ray."""
    torch.set_num_threads(1)
    build_segmenter, job = toy_job(TrainingConfig(**settings))
    return train(build_segmenter(), job, TrainContext(num_parts=num_parts))


def steps_saved(run: Path) -> list[int]:
    """List the checkpoints, newest first."""
    files = (run / "teacher" / "checkpoints").glob("step-*/training.json")
    return sorted((int(file.parent.name.removeprefix("step-")) for file in files), reverse=True)


def last_step(run: Path) -> int:
    return next(iter(steps_saved(run)), 0)


def test_workers_driver_and_counters_killed(tmp_path: Path) -> None:
    """With one worker on the CPU, weights are equal bit for bit.

    The progress counter dies alone, and with a worker.
    """
    settings = {"num_workers": 1, "checkpoint_every": 3, "cpus_per_worker": 1}
    run = tmp_path / "run"
    driver = start(run, settings)
    for reached, names in ((3, ["LiveCounter"]), (9, ["LiveCounter", "RayTrainWorker"])):
        wait_for(lambda reached=reached: last_step(run) >= reached, process=driver)
        for name in names:
            for actor in actors(name, driver.pid):
                actor.kill()
    wait_for(lambda: last_step(run) >= 15, process=driver)
    kill(driver)
    time.sleep(3)
    assert not (run / "teacher" / "model.json").exists()
    before = last_step(run)
    assert before < STEPS
    again = start(run, settings)
    wait_for(lambda: last_step(run) > before, process=again)
    [worker] = actors("RayTrainWorker", again.pid)
    worker.kill()
    assert "toy: a worker died. Starting again from step " in finish(again)
    assert not (run / "teacher" / "checkpoints").exists()
    assert_same_weights(load_segmenter(str(run / "teacher"))[0], undisturbed(settings, num_parts=1))
    steps = [json.loads(line)["step"] for line in (run / "teacher" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert steps[-1] == STEPS


def test_ctrl_c_while_workers_train_and_while_they_wait(tmp_path: Path) -> None:
    settings = {"num_workers": 1, "checkpoint_every": 3, "cpus_per_worker": 1}
    run, cluster = tmp_path / "run", Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        first = start(run, settings, pause=0.5, RAY_ADDRESS=cluster.address)
        wait_for(lambda: last_step(run) >= 3, process=first)
        second = start(tmp_path / "other", settings, RAY_ADDRESS=cluster.address, WAITING_SECONDS="1")
        assert second.stdout is not None
        assert next(line for line in second.stdout if "waiting" in line).startswith("toy: waiting for 1 of 1 workers, ")
        for driver in (second, first):
            driver.send_signal(signal.SIGINT)
            assert driver.wait(timeout=60) != 0
    finally:
        cluster.shutdown()
    assert not (run / "teacher" / "model.json").exists()


def test_a_loss_that_is_not_finite_is_not_tried_again(tmp_path: Path) -> None:
    settings = {"num_workers": 1, "cpus_per_worker": 1, "optimizer": {"learning_rate": 1e30}}
    last = finish(start(tmp_path / "run", settings), code=1).splitlines()[-1]
    assert "is not finite at step " in last
    assert "; images toy-" in last
    assert last.startswith("toy: ")


def test_a_machine_that_drains_and_goes_away(tmp_path: Path) -> None:
    """Two workers train on two machines, and one machine drains.

    The notice makes a checkpoint that would not be due. After the machine is gone, the other worker continues alone. It
    ends with the weights of both, except for the rounding of sums.
    """
    settings = {"num_workers": 2, "min_workers": 1, "checkpoint_every": 1000, "cpus_per_worker": 1}
    run, cluster = tmp_path / "run", Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        node = cluster.add_node(num_cpus=1)
        # Ray Train first tries to start both again, and gives that up after 60 s by default.
        sooner = {"RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30"}
        driver = start(run, settings, pause=0.15, RAY_ADDRESS=cluster.address, **sooner)
        progress = run / "teacher" / "progress.json"
        wait_for(lambda: progress.exists() and read_json(str(progress))["figures"]["done"], process=driver)
        assert last_step(run) == 0
        drain(node.node_id, cluster.address, seconds=8)
        wait_for(lambda: last_step(run), process=driver)
        noticed = last_step(run)
        cluster.remove_node(node, allow_graceful=False)
        finish(driver)
    finally:
        cluster.shutdown()
    assert 0 < noticed < STEPS
    ended, both = load_segmenter(str(run / "teacher"))[0].state_dict(), undisturbed(settings, num_parts=2).state_dict()
    difference = max((value - both[name]).abs().max().item() for name, value in ended.items())
    assert difference <= TOLERANCE


def drain(node_id: str, address: str, *, seconds: int) -> None:
    """Drain a machine, as a cluster's autoscaler does before it loses a spot machine."""
    reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "test"]
    deadline = ["--deadline-remaining-seconds", str(seconds)]
    ray_command = str(Path(sys.executable).parent / "ray")
    subprocess.run(
        [ray_command, "drain-node", "--address", address, "--node-id", node_id, *reason, *deadline],
        check=True,
        capture_output=True,
    )
