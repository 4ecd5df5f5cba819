"""How far a run is, read from the files in its folder. No cluster is asked, so the status is right after any crash.

The live parts are the driver's last progress and its last view of the calibration actor, with their age. They decide
nothing. The seconds of committed shards show how the label stage spends its time.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raylabel.redaction import redacted
from raylabel.run.folder import (
    STAGES,
    RunFolder,
    is_run,
    is_started,
    load_run_config,
    run_folder,
    stage_folder,
    stage_spec,
)
from raylabel.run.labels.kept import fates_of_classes
from raylabel.run.labels.ledger import read_ledger
from raylabel.run.labels.manifest import load_plan
from raylabel.run.labels.shards import shard_sizes
from raylabel.run.live_files import read_progress, read_snapshot
from raylabel.run.rounds import further_rounds
from raylabel.schema import SHARD_PHASES

OTHER = "other"
"""Seconds of a shard outside its phases: writing markers, waiting for a turn."""


def seconds_by_phase(shards: pa.Table) -> dict[str, float]:
    """Sum the workers' seconds per phase, and the seconds outside of phases.

    Args:
        shards: rows of schema.SHARDS.
    """
    totals = {phase: float(pc.sum(shards[f"{phase}_seconds"]).as_py() or 0.0) for phase in SHARD_PHASES}
    seconds = float(pc.sum(shards["seconds"]).as_py() or 0.0)
    return totals | {OTHER: max(0.0, seconds - sum(totals.values()))}


def slowest_shards(shards: pa.Table, num: int) -> list[dict[str, Any]]:
    """Return the rows of schema.SHARDS of the slowest shards, slowest first, with `images_per_second`."""
    order = pc.sort_indices(shards, sort_keys=[("seconds", "descending"), ("shard_id", "ascending")])
    rows = shards.take(order[:num]).to_pylist()
    return [row | {"images_per_second": row["num_images"] / max(row["seconds"], 1e-3)} for row in rows]


def run_status(run: RunFolder | Path | str, *, num_slowest: int = 0, with_classes: bool = False) -> dict[str, Any]:
    """Tell how far a run is.

    Args:
        run: the run folder, a path or a URI.
        num_slowest: how many of the slowest shards to list.
        with_classes: whether to tell what became of the predictions of each class. While `label` is not finished, this
            reads every committed shard.

    Returns:
        - `stages`: each stage's state (`finished`, `started` or `not started`), seconds and fingerprint.
        - `labels`: shards and images, done and total; images per second; quarantined images and those in
          validation; seconds per phase.
        - `classes`: with `with_classes`, the rows of schema.CLASS_FATES, the class with the fewest pseudo-labels first.
          Empty if nothing is labelled.
        - `progress`: the figures of the progress line of each stage at work, with their age.
        - `live`: the live view of the raw scores of each stage at work (see `live_calibration.live_figures`).
        - `rounds`: the same of each further round that has begun, by its number.

    Raises:
        InputError: the folder is not a run.

    Examples:
        >>> import raylabel as rl
        >>> # run: the folder of a finished run
        >>> status = rl.status(run)
        >>> [(one["stage"], one["state"]) for one in status["stages"][:2]]
        [('prototypes', 'finished'), ('teacher', 'finished')]
        >>> status["labels"]["images_done"], status["labels"]["images_total"]
        (32, 32)
    """
    run = run_folder(run)
    config = load_run_config(run)
    stages: list[dict[str, Any]] = []
    for spec in STAGES:
        artifact, started = run.artifact(spec.folder), is_started(run, spec.name)
        stages.append(
            {
                "stage": spec.name,
                "state": "finished" if artifact else "started" if started else "not started",
                "seconds": artifact["seconds"] if artifact else None,
                "fingerprint": artifact["fingerprint"][:12] if artifact else None,
            }
        )
    at_work = [one["stage"] for one in stages if one["state"] == "started"]
    progress = {stage: read_progress(run, stage_folder(stage)) for stage in at_work}
    live = {stage: read_snapshot(run, stage_folder(stage)) for stage in at_work if stage_spec(stage).is_live}
    return {
        "run": redacted(run.uri),
        "stages": stages,
        "labels": _label_status(run, num_slowest),
        "classes": fates_of_classes(run) if with_classes else [],
        "progress": {stage: figures for stage, figures in progress.items() if figures is not None},
        "live": {stage: snapshot for stage, snapshot in live.items() if snapshot is not None},
        "rounds": {
            str(number): run_status(one, num_slowest=num_slowest, with_classes=with_classes)
            for number, one in further_rounds(config, run).items()
            if is_run(one)
        },
    }


def _label_status(run: RunFolder, num_slowest: int) -> dict[str, Any] | None:
    plan = load_plan(run)
    if plan is None:
        return None
    shards = read_ledger(run, shard_sizes(run))
    totals = {
        name: pc.sum(shards[name]).as_py() or 0
        for name in ("num_images", "num_instances", "num_quarantined", "num_in_validation", "seconds")
    }
    return {
        "shards_done": shards.num_rows,
        "shards_total": plan["num_shards"],
        "images_done": totals["num_images"],
        "images_total": plan["num_images"],
        "num_instances": totals["num_instances"],
        "num_quarantined": totals["num_quarantined"],
        "num_in_validation": totals["num_in_validation"],
        "images_per_second_per_worker": (
            round(totals["num_images"] / totals["seconds"], 2) if totals["seconds"] else None
        ),
        "seconds_by_phase": seconds_by_phase(shards),
        "slowest_shards": slowest_shards(shards, num_slowest),
    }
