"""What a driver at work leaves for other processes to see: its progress, and the live view of a stage's scores.

They are two small files, since each has its own age: the calibration actor may be gone while the work goes on.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from raylabel.errors import InputError
from raylabel.progress import Figures
from raylabel.storage import RunFolder, commit_json, read_json, remove

LIVE_FILE = "live.json"
"""The live view, in the stage's folder while it runs; nothing is ever computed from it."""

PROGRESS_FILE = "progress.json"
"""The figures of the progress line, likewise."""

STALE_SECONDS = 60.0
"""A driver writes every few seconds: after this long it has stopped, or can't reach its cluster."""

GROUP_NAMES = {"all": "all", "r": "rare", "c": "common", "f": "frequent"}


def commit_snapshot(
    run: RunFolder, folder: str, *, shards_counted: int, shards_total: int, groups: Mapping[str, Any], is_matched: bool
) -> None:
    """Replace the stage's live file."""
    content = {
        "updated": time.time(),
        "shards_counted": shards_counted,
        "shards_total": shards_total,
        "is_matched": is_matched,
        "groups": dict(groups),
    }
    commit_json(run.path(folder, LIVE_FILE), content)


def read_snapshot(run: RunFolder, folder: str) -> dict[str, Any] | None:
    """What the stage's live file says, with `age_seconds`; None where there is none."""
    return _read_with_age(run.path(folder, LIVE_FILE))


def _read_with_age(uri: str) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = read_json(uri)
    except InputError:
        # It may go at any moment.
        return None
    return content | {"age_seconds": round(max(0.0, time.time() - content["updated"]), 1)}


def commit_progress(run: RunFolder, folder: str, *, label: str, figures: Figures) -> None:
    """Replace the figures that the stage's folder holds."""
    commit_json(run.path(folder, PROGRESS_FILE), {"updated": time.time(), "label": label, "figures": asdict(figures)})


def read_progress(run: RunFolder, folder: str) -> dict[str, Any] | None:
    """`label`, `figures` (those of progress.Figures) and `age_seconds`; None where no driver left any."""
    return _read_with_age(run.path(folder, PROGRESS_FILE))


def remove_progress(run: RunFolder, folder: str) -> None:
    """The work is done."""
    remove(run.path(folder, PROGRESS_FILE))


def format_progress(progress: Mapping[str, Any]) -> str:
    """As a line of text for people."""
    return f"  {progress['label']}: {Figures(**progress['figures']).text()}  ({_seen(progress['age_seconds'])})"


def _seen(age_seconds: float) -> str:
    if age_seconds < STALE_SECONDS:
        return f"{age_seconds:.0f} s ago"
    return f"{age_seconds / 60:.0f} min ago: no driver is at work"


def remove_snapshot(run: RunFolder, folder: str) -> None:
    """The stage's shards are done: its tables say more."""
    remove(run.path(folder, LIVE_FILE))


def format_snapshot(stage: str, snapshot: Mapping[str, Any]) -> str:
    """As lines of text for people."""
    is_matched, seen = snapshot["is_matched"], _seen(snapshot["age_seconds"])
    about = "so far, not the result" if is_matched else "accuracy and CCECE as expected by the corrector; no truth"
    columns = [("confidence", "mean_confidence")]
    if is_matched:
        columns += [("accuracy", "accuracy"), ("CCECE", "ccece"), ("debiased", "ccece_debiased")]
    else:
        columns += [("exp. accuracy", "expected_accuracy"), ("exp. CCECE", "expected_ccece")]
    widths = [max(len(name), 6) for name, _ in columns]
    shards = f"{snapshot['shards_counted']}/{snapshot['shards_total']} shards"
    lines = [
        f"  live {stage}: raw scores of {shards}, {seen} ({about})",
        f"    {'group':<9}{'classes':>8}{'predictions':>13}"
        + "".join(f"  {name:>{width}}" for (name, _), width in zip(columns, widths, strict=True)),
    ]
    for letter, figures in snapshot["groups"].items():
        cells = ["–" if figures[key] is None else f"{figures[key]:.3f}" for _, key in columns]
        lines.append(
            f"    {GROUP_NAMES[letter]:<9}{figures['num_classes']:>8}{figures['num_predictions']:>13,.0f}"
            + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        )
    return "\n".join(lines)
