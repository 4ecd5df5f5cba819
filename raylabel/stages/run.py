"""A run from end to end: every stage in order. Finished stages are skipped."""

from pathlib import Path
from typing import Any

from raylabel.cluster.session import connect
from raylabel.config import Config
from raylabel.run.folder import STAGES, RunFolder, commit_config, run_folder
from raylabel.run.lease import hold_lease
from raylabel.stages.modules import stage_module
from raylabel.stages.preflight import check_cluster, check_writable

# `check` and the stage modules are loaded when they are needed, because torch takes seconds to load.


def run_one(stage: str, config: Config, run: RunFolder, *, verify: bool = False) -> dict[str, Any]:
    """Run one stage, and write the config into the run. The stages that it needs must be finished.

    Args:
        stage: the name of one of STAGES.
        config: the run's config.
        run: the run folder.
        verify: for `evaluate` alone: whether the official evaluators compute AP too.

    Raises:
        InputError: the run folder can't be written, another driver is at work on the run, or the stage refuses its
            input.
    """
    check_writable(run)
    with hold_lease(run):
        commit_config(run, config)
        options = {"verify": True} if verify and stage == "evaluate" else {}
        return stage_module(stage).run_stage(config, run, **options)


def run_pipeline(
    config: Config, run: RunFolder | Path | str | None = None, *, verify: bool = False
) -> dict[str, dict[str, Any]]:
    """Run all stages. Finished ones are skipped, and an interrupted one resumes.

    Args:
        config: the run's config.
        run: the run folder, a path or a URI. Without it, the config's `out`.
        verify: whether the official evaluators compute AP too.

    Returns:
        The artifact of each stage by the stage's name.

    Raises:
        InputError: `check_run` or `check_cluster` finds a fault before the first stage starts, or another driver is at
            work on the run.

    Examples:
        >>> import raylabel as rl
        >>> # config: the Config of a finished run; run: its folder
        >>> artifacts = rl.run_pipeline(config, run)  # doctest: +ELLIPSIS
        prototypes: finished before, skipped
        ...
        >>> artifacts["label"]["num_images"]
        32
    """
    run = run_folder(run or config.out)
    from raylabel.stages.check import check_run
    from raylabel.stages.states import FINISHED

    if verify:
        from raylabel.evaluation.official import require_evaluators

        require_evaluators()  # before hours of work
    found = check_run(config, run, resumes=True)
    for remark in found["remarks"]:
        print(f"WARNING: {remark}", flush=True)
    states = [found["stages"], *found["rounds"].values()]
    if to_do := {stage for one in states for stage, state in one.items() if state != FINISHED}:
        connect()
        check_cluster(config, run, to_do, num_shards=found["pool"]["num_shards"])
    with hold_lease(run):
        return {spec.name: run_one(spec.name, config, run, verify=verify) for spec in STAGES}
