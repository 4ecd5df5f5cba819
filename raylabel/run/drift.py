"""Drift of the labelled pool from the calibration split: labels/drift.parquet, and a warning that names classes."""

from typing import Any

import pyarrow as pa

from raylabel.calibration import ImageCounts, estimate_pool_accuracy, measure_drift
from raylabel.errors import InputError
from raylabel.files.reading import exists
from raylabel.files.tables import commit_table, read_table
from raylabel.run.calibration import load_detections
from raylabel.run.classes import load_classes
from raylabel.run.folder import RunFolder, stage_folder
from raylabel.run.labels.histograms import read_pool_histogram
from raylabel.run.labels.shards import LABELS_FOLDER
from raylabel.run.stage import finished


def compare_with_pool(run: RunFolder, pool: ImageCounts) -> dict[str, Any]:
    """Measure drift, write labels/drift.parquet, and return the label artifact's entries about it.

    Both sides count every detection above the teacher's score threshold, ignored detections included. Quarantined
    images of the pool do not count.

    Args:
        run: the run folder.
        pool: counts of the labelled pool, from its survey.

    Raises:
        InputError: an earlier version calibrated the run and did not store the number of images of the split.
    """
    classes, histogram = load_classes(run), read_pool_histogram(run)
    split = finished(run, "calibrate")
    if "num_split_images" not in split:
        raise InputError(
            f"{run.path(stage_folder('calibrate'))}: made by an earlier version. Remove it and calibrate again."
        )
    detections, _ = load_detections(run)
    report = measure_drift(
        ImageCounts.from_detections(detections, num_images=split["num_split_images"], num_bins=histogram.num_bins),
        pool,
    )
    commit_table(_drift_uri(run), report.to_table(estimate_pool_accuracy(detections, histogram)))
    return report.summary(classes.names) | {
        "calibration": split["fingerprint"],
        "warning": report.warning(classes.names),
    }


def load_drift(run: RunFolder) -> pa.Table | None:
    """Read labels/drift.parquet, one row per class. None if drift was not measured."""
    uri = _drift_uri(run)
    return read_table(uri) if exists(uri) else None


def _drift_uri(run: RunFolder) -> str:
    return run.path(LABELS_FOLDER, "drift.parquet")
