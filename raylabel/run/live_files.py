"""Live files of a driver at work, for other processes: its progress, and the live view of a stage's scores.

They are two small files, because each has its own age: the calibration actor may be gone while the stage still works.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from raylabel.errors import InputError
from raylabel.files.json_files import commit_json, read_json_object
from raylabel.files.moving import remove
from raylabel.progress import Figures
from raylabel.run.folder import RunFolder

LIVE_FILE = "live.json"
"""The live view, in the stage's folder while the stage runs. Nothing is ever computed from it."""


PROGRESS_FILE = "progress.json"
"""The figures of the progress line, in the stage's folder while the stage runs."""


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
    """Read the stage's live file, with `age_seconds`. None if there is no live file."""
    return _read_with_age(run.path(folder, LIVE_FILE))


def _read_with_age(uri: str) -> dict[str, Any] | None:
    try:
        content = read_json_object(uri)
    except InputError:
        # The driver may remove the file at any moment.
        return None
    return content | {"age_seconds": round(max(0.0, time.time() - content["updated"]), 1)}


def commit_progress(run: RunFolder, folder: str, *, label: str, figures: Figures) -> None:
    """Replace the figures of the progress line in the stage's folder."""
    commit_json(run.path(folder, PROGRESS_FILE), {"updated": time.time(), "label": label, "figures": asdict(figures)})


def read_progress(run: RunFolder, folder: str) -> dict[str, Any] | None:
    """Read `label`, `figures` (the fields of progress.Figures) and `age_seconds`. None if no driver left figures."""
    return _read_with_age(run.path(folder, PROGRESS_FILE))


def remove_progress(run: RunFolder, folder: str) -> None:
    """Remove the figures of the progress line once the work is done."""
    remove(run.path(folder, PROGRESS_FILE))


def remove_snapshot(run: RunFolder, folder: str) -> None:
    """Remove the live view once the stage's shards are done, because the stage's tables say more."""
    remove(run.path(folder, LIVE_FILE))
