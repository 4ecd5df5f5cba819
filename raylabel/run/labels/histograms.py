"""Confidence histograms of stored labels: per shard in its metadata, and of the whole pool in one table.

The truth of stored labels is unknown, so `expected_bins` takes the corrected scores in its place.
"""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa

from raylabel.calibration import ReliabilityBins
from raylabel.calibration.bins import bin_of
from raylabel.calibration.detections import Detections
from raylabel.files.digests import digest
from raylabel.files.tables import commit_table, read_table
from raylabel.run.folder import RunFolder
from raylabel.run.labels.shards import LABELS_FOLDER, read_fields
from raylabel.run.stage import finished
from raylabel.schema import BINS

HISTOGRAM_BINS = 50
"""Bins of the pool's confidence histograms. They are finer than the reliability bins, and no setting changes them."""


def labelled_pool(run: RunFolder) -> str | None:
    """Return the digest of the finished labels of the run's present teacher. None if there are no such labels.

    The digest changes when the pool grows, and when other images are left out of it.
    """
    artifact = run.artifact(LABELS_FOLDER)
    if artifact is None or artifact["inputs"]["teacher"] != finished(run, "teacher")["fingerprint"]:
        return None
    left_out = artifact.get("in_validation_digest")
    return digest([artifact["fingerprint"], artifact["pool_digest"], *([left_out] if left_out else [])])


def read_pool_histogram(run: RunFolder) -> ReliabilityBins:
    """Read the histogram of the labelled pool's raw scores.

    Only `num` and `sum_confidence` count, because the truth is unknown.
    """
    return ReliabilityBins.from_table(read_table(_histogram_uri(run)))


def commit_pool_histogram(run: RunFolder, histogram: ReliabilityBins) -> None:
    """Write the histogram of the labelled pool to labels/histogram.parquet."""
    commit_table(_histogram_uri(run), histogram.to_table())


def _histogram_uri(run: RunFolder) -> str:
    return run.path(LABELS_FOLDER, "histogram.parquet")


def histogram_to_json(histogram: pa.Table) -> str:
    """Convert a sparse histogram of raw scores to text for a shard's metadata."""
    shape = {key.decode(): value.decode() for key, value in histogram.schema.metadata.items()}
    return json.dumps({"shape": shape, **histogram.select(["class_index", "bin", "num", "sum_confidence"]).to_pydict()})


def histogram_from_json(text: str) -> pa.Table:
    """Convert the text back to a table of schema.BINS. `num_correct` and `num_ignored` are 0: the truth is unknown."""
    content = json.loads(text)
    shape = content.pop("shape")
    zeros = [0.0] * len(content["bin"])
    return pa.table({**content, "num_correct": zeros, "num_ignored": zeros}, schema=BINS.with_metadata(shape))


_COLUMNS = ("class_index", "raw_score", "calibrated_score")


def expected_bins(labels: pa.Table, *, num_classes: int, num_bins: int) -> ReliabilityBins:
    """Compute bins of raw scores whose `num_correct` is the sum of the calibrated scores.

    That sum is the expected number of correct predictions if the corrector is right.

    Args:
        labels: `instances` of schema.LABELS. Class index, raw score and calibrated score are read.
        num_classes: classes without background.
        num_bins: bins over (0, 1].
    """
    structs = labels["instances"].combine_chunks().flatten()
    classes, raw_scores, calibrated_scores = (structs.field(name).to_numpy(zero_copy_only=False) for name in _COLUMNS)
    scores = Detections.of_scores(classes, raw_scores, num_classes=num_classes)
    bins = ReliabilityBins.from_detections(replace(scores, outcomes=np.zeros(len(scores), np.int8)), num_bins)
    np.add.at(bins.num_correct, (classes, bin_of(raw_scores, num_bins)), calibrated_scores)
    return bins


def bins_of_shard(uri: str, *, num_classes: int, num_bins: int) -> ReliabilityBins:
    """Compute `expected_bins` of a committed shard. Masks take most of its bytes and are not read."""
    return expected_bins(read_fields(uri, _COLUMNS), num_classes=num_classes, num_bins=num_bins)
