"""Drift of the labelled pool from the calibration split: labels/drift.parquet, and a warning that names classes."""

from typing import Any

import numpy as np
import pyarrow as pa

from raylabel.calibration import Detections, ImageCounts, estimate_pool_accuracy, measure_drift
from raylabel.errors import InputError
from raylabel.files.storage import commit_table, exists, read_table
from raylabel.run.calibration import load_detections
from raylabel.run.classes import load_classes
from raylabel.run.folder import RunFolder, stage_folder
from raylabel.run.labels.histograms import read_pool_histogram
from raylabel.run.labels.shards import LABELS_FOLDER, STATUS_OK, committed_shards, read_fields
from raylabel.run.stage import finished


def compare_with_pool(run: RunFolder) -> dict[str, Any]:
    """Measure drift, write labels/drift.parquet, and return the label artifact's entries about it.

    Both sides count every detection above the teacher's score threshold, ignored detections included. Quarantined
    images of the pool do not count.

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
        count_pool_detections(run, num_classes=classes.num_classes, num_bins=histogram.num_bins),
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


def count_pool_detections(run: RunFolder, *, num_classes: int, num_bins: int) -> ImageCounts:
    """Count the stored predictions of every readable image by class and raw score, shard by shard."""
    counts = ImageCounts.zeros(num_classes, num_bins)
    for uri in committed_shards(run).values():
        table = read_fields(uri, ("status", "class_index", "raw_score"))
        is_read = np.array(table["status"].to_pylist(), dtype=object) == STATUS_OK
        instances = table["instances"].combine_chunks()
        structs, lengths = instances.flatten(), instances.value_lengths().fill_null(0).to_numpy()
        detections = Detections.of_scores(
            structs.field("class_index").to_numpy(), structs.field("raw_score").to_numpy(), num_classes=num_classes
        )
        images = np.repeat(np.arange(len(lengths)), lengths)
        counts += ImageCounts.from_detections(
            Detections(**(vars(detections) | {"image_indices": images})),
            num_images=int(is_read.sum()),
            num_bins=num_bins,
        )
    return counts
