"""How far a run is, from the files in its folder; it asks no cluster, so it is right after any crash.

The live part is what a driver at work last wrote of its calibration actor, with its age; it decides nothing.
"""

from typing import Any

import pyarrow.compute as pc

from raylabel.config import load_run_config
from raylabel.labels import committed_shards
from raylabel.pipeline.ledger import read_ledger
from raylabel.pipeline.live_snapshot import format_snapshot, read_snapshot
from raylabel.pipeline.stage import STAGES, stage_folder
from raylabel.storage import RunFolder, exists, read_json

LIVE_STAGES = ("calibrate", "label")
"""Stages with a calibration actor."""


def run_status(run: RunFolder) -> dict[str, Any]:
    """Each stage's state (`finished`, `started` or `not started`), and of the labels: shards and images done and in
    all, images/s, quarantined images. Of `calibrate` and `label`, while their shards are made: the live view of the raw
    scores (`live_snapshot.live_figures`) and its age.

    Raises:
        InputError: the folder is not a run.
    """
    load_run_config(run)
    stages = []
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
    live = {
        one["stage"]: read_snapshot(run, stage_folder(one["stage"]))
        for one in stages
        if one["stage"] in LIVE_STAGES and one["state"] == "started"
    }
    return {
        "run": run.uri,
        "stages": stages,
        "labels": _label_status(run),
        "live": {stage: snapshot for stage, snapshot in live.items() if snapshot is not None},
    }


def _label_status(run: RunFolder) -> dict[str, Any] | None:
    plan_uri = run.path(stage_folder("label"), "plan.json")
    if not exists(plan_uri):
        return None
    plan = read_json(plan_uri)
    ledger = read_ledger(run, committed_shards(run))
    sums = {
        name: pc.sum(ledger[name]).as_py() or 0
        for name in ("num_images", "num_instances", "num_quarantined", "seconds")
    }
    num_images, busy_seconds = sums["num_images"], sums["seconds"]
    return {
        "shards_done": len(ledger),
        "shards_total": plan["num_shards"],
        "images_done": num_images,
        "images_total": plan["num_images"],
        "num_instances": sums["num_instances"],
        "num_quarantined": sums["num_quarantined"],
        "images_per_second_per_worker": round(num_images / busy_seconds, 2) if busy_seconds else None,
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
    lines += [format_snapshot(stage, snapshot) for stage, snapshot in status["live"].items()]
    return "\n".join(lines)
