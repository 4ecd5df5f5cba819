"""RUN/evaluation/metrics.json: the figures of the evaluate stage."""

from typing import Any

from raylabel.files.json_files import commit_json, read_json_object
from raylabel.files.reading import exists
from raylabel.run.folder import RunFolder, stage_folder


def commit_metrics(run: RunFolder, metrics: dict[str, Any]) -> None:
    """Write the figures of the evaluate stage."""
    commit_json(_metrics_uri(run), metrics)


def load_metrics(run: RunFolder) -> dict[str, Any] | None:
    """Read the figures of the evaluate stage. None if the run is not evaluated yet."""
    uri = _metrics_uri(run)
    return read_json_object(uri) if exists(uri) else None


def _metrics_uri(run: RunFolder) -> str:
    return run.path(stage_folder("evaluate"), "metrics.json")
