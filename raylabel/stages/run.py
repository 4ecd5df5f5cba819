"""A run from end to end: every stage in order, skipping what is finished."""

import importlib
from collections.abc import Callable
from typing import Any

from raylabel.cluster.session import connect
from raylabel.config import Config, dump_config
from raylabel.errors import NoDetectionError
from raylabel.files.storage import commit_bytes
from raylabel.run.folder import STAGES, RunFolder
from raylabel.run.lease import hold_lease
from raylabel.run.rounds import (
    ROUND_STAGES,
    adopt_student,
    further_rounds,
    round_config,
    round_run,
    student_calibration,
)
from raylabel.stages.preflight import check_cluster, check_writable

Stage = Callable[[Config, RunFolder], dict[str, Any]]

# Modules of stages, and `check`, are loaded when they are needed: torch takes seconds that not all of them need.


def _run_stage(stage: str) -> Stage:
    module: Any = importlib.import_module(f"raylabel.stages.{stage}")
    return module.run_stage


def run_one(stage: str, config: Config, run: RunFolder) -> dict[str, Any]:
    """Run one stage; the stages before it must be finished. The config is kept in the run. Further rounds belong to
    `distill`, the calibration of the last student to `evaluate`.

    Raises:
        InputError: the run folder can't be written, another driver is at work on the run, or as of the stage.
    """
    check_writable(run)
    with hold_lease(run):
        commit_bytes(run.path("config.yaml"), dump_config(config).encode())
        if stage == "evaluate" and not config.calibration.folds:
            _calibrate_student(config, run)
        artifact = _run_stage(stage)(config, run)
        if stage == "distill":
            _run_further_rounds(config, run)
        return artifact


def _run_further_rounds(config: Config, run: RunFolder) -> None:
    for number, this in further_rounds(config, run).items():
        print(f"round {number}: the student of round {number - 1} is its teacher", flush=True)
        adopt_student(round_run(run, number - 1), this)
        for stage in ROUND_STAGES:
            run_one(stage, round_config(config), this)


def _calibrate_student(config: Config, run: RunFolder) -> None:
    calibrated = student_calibration(run)
    print(f"evaluate: the student is calibrated in {calibrated.uri}", flush=True)
    adopt_student(round_run(run, config.student.rounds), calibrated)
    try:
        run_one("calibrate", round_config(config), calibrated)
    except NoDetectionError:
        print(
            "evaluate: the student made no detection on the calibration split; its scores stay as they are", flush=True
        )


def run_pipeline(config: Config, run: RunFolder) -> dict[str, dict[str, Any]]:
    """Run all stages; returns the artifact of each.

    Raises:
        InputError: anything that `check_run` or `check_cluster` finds, before the first stage starts; or another driver
            is at work on the run.
    """
    from raylabel.stages.check import check_run
    from raylabel.stages.states import FINISHED

    found = check_run(config, run)
    states = [found["stages"], *found["rounds"].values()]
    if to_do := {stage for one in states for stage, state in one.items() if state != FINISHED}:
        connect()
        check_cluster(config, run, to_do, num_shards=found["pool"]["num_shards"])
    with hold_lease(run):
        return {stage: run_one(stage, config, run) for stage in STAGES}
