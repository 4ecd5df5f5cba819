"""How far a run is, from the files in its folder; it asks no cluster, so it is right after any crash.

The live parts are what a driver at work last wrote of its progress and of its calibration actor, with their age; they
decide nothing.
"""

from typing import Any

import pyarrow.compute as pc

from raylabel.config import load_run_config
from raylabel.labels import committed_shards
from raylabel.pipeline.ledger import read_ledger
from raylabel.pipeline.live_snapshot import format_progress, format_snapshot, read_progress, read_snapshot
from raylabel.pipeline.rounds import ROUND_STAGES, further_rounds
from raylabel.pipeline.shard_times import (
    format_seconds_by_phase,
    format_slowest_shards,
    seconds_by_phase,
    slowest_shards,
)
from raylabel.pipeline.stage import STAGES, stage_folder
from raylabel.storage import RunFolder, exists, read_json

LIVE_STAGES = ("calibrate", "label")
"""Stages with a calibration actor."""


def run_status(run: RunFolder, *, num_slowest: int = 0) -> dict[str, Any]:
    """Each stage's state (`finished`, `started` or `not started`), and of the labels: shards and images done and in
    all, images/s, quarantined images, seconds by phase. Of stages that are at work: the figures of their progress line,
    and of `calibrate` and `label` the live view of the raw scores (`live_figures.live_figures`), with their age. Of
    further rounds that have begun: the same.

    Args:
        num_slowest: so many of the slowest shards are listed.

    Raises:
        InputError: the folder is not a run.
    """
    config = load_run_config(run)
    stages: list[dict[str, Any]] = []
    for stage in STAGES:
        artifact = run.artifact(stage_folder(stage))
        started = exists(run.path(stage_folder(stage), "started.json"))
        stages.append(
            {
                "stage": stage,
                "state": "finished" if artifact else "started" if started else "not started",
                "seconds": artifact["seconds"] if artifact else None,
                "fingerprint": artifact["fingerprint"][:12] if artifact else None,
            }
        )
    at_work = [one["stage"] for one in stages if one["state"] == "started"]
    progress = {stage: read_progress(run, stage_folder(stage)) for stage in at_work}
    live = {stage: read_snapshot(run, stage_folder(stage)) for stage in at_work if stage in LIVE_STAGES}
    return {
        "run": run.uri,
        "stages": stages,
        "labels": _label_status(run, num_slowest),
        "progress": {stage: figures for stage, figures in progress.items() if figures is not None},
        "live": {stage: snapshot for stage, snapshot in live.items() if snapshot is not None},
        "rounds": {
            str(number): run_status(one, num_slowest=num_slowest)
            for number, one in further_rounds(config, run).items()
            if exists(one.path("config.yaml"))
        },
    }


def _label_status(run: RunFolder, num_slowest: int) -> dict[str, Any] | None:
    plan_uri = run.path(stage_folder("label"), "plan.json")
    if not exists(plan_uri):
        return None
    plan, shards = read_json(plan_uri), read_ledger(run, committed_shards(run))
    totals = {
        name: pc.sum(shards[name]).as_py() or 0
        for name in ("num_images", "num_instances", "num_quarantined", "seconds")
    }
    return {
        "shards_done": shards.num_rows,
        "shards_total": plan["num_shards"],
        "images_done": totals["num_images"],
        "images_total": plan["num_images"],
        "num_instances": totals["num_instances"],
        "num_quarantined": totals["num_quarantined"],
        "images_per_second_per_worker": (
            round(totals["num_images"] / totals["seconds"], 2) if totals["seconds"] else None
        ),
        "seconds_by_phase": seconds_by_phase(shards),
        "slowest_shards": slowest_shards(shards, num_slowest),
    }


def format_status(status: dict[str, Any]) -> str:
    """As text for people."""
    lines = [f"run {status['run']}"]
    for one in status["stages"]:
        seconds = f"{one['seconds']:.0f} s" if one["seconds"] is not None else ""
        lines.append(f"  {one['stage']:<11} {one['state']:<12} {seconds:>7}  {one['fingerprint'] or ''}".rstrip())
    labels = status["labels"]
    if labels:
        rate = labels["images_per_second_per_worker"]
        lines.append(
            f"  labels: {labels['shards_done']}/{labels['shards_total']} shards, "
            f"{labels['images_done']}/{labels['images_total']} images"
            + (f", {rate:g} images/s a worker" if rate else "")
            + f", {labels['num_instances']} instances, {labels['num_quarantined']} images quarantined"
        )
        if any(labels["seconds_by_phase"].values()):
            lines.append(f"  {format_seconds_by_phase(labels['seconds_by_phase'])}")
        if labels["slowest_shards"]:
            lines.append(format_slowest_shards(labels["slowest_shards"]))
    lines += [format_progress(progress) for progress in status["progress"].values()]
    lines += [format_snapshot(stage, snapshot) for stage, snapshot in status["live"].items()]
    for number, of_round in status["rounds"].items():
        shown = [one for one in of_round["stages"] if one["stage"] in ("teacher", *ROUND_STAGES)]
        lines += [f"round {number}: {format_status(of_round | {'stages': shown}).removeprefix('run ')}"]
    return "\n".join(lines)
