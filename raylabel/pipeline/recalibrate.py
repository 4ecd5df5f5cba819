"""New calibrated scores on stored labels, without the teacher: the raw soft vectors stay as they are."""

from typing import Any

from raylabel.config import dump_config, load_run_config
from raylabel.pipeline.label import refresh
from raylabel.pipeline.lease import hold_lease
from raylabel.pipeline.stored_calibration import refit
from raylabel.storage import RunFolder, commit_bytes


def recalibrate(run: RunFolder, corrector: str) -> dict[str, Any]:
    """Fit another kind of corrector on the run's stored detections and apply it to its stored labels.

    Raises:
        InputError: the run has no detections or labels, the kind is unknown, or another driver is at work on the run.
    """
    config = load_run_config(run, {"calibration.corrector": corrector})
    with hold_lease(run):
        refit(config, run)
        artifact = refresh(config, run)
        commit_bytes(run.path("config.yaml"), dump_config(config).encode())
    return artifact
