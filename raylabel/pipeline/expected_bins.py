"""Bins of stored labels, whose truth is unknown: what the corrector expects takes its place. For the live view only."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raylabel.calibration.bins import ReliabilityBins, bin_of
from raylabel.calibration.detections import Detections
from raylabel.stored_file import StoredFile

_COLUMNS = ("class_index", "raw_score", "calibrated_score")


def expected_bins(labels: pa.Table, *, num_classes: int, num_bins: int) -> ReliabilityBins:
    """Bins of raw scores whose `num_correct` is the sum of calibrated scores: so many are right if the corrector is.

    Args:
        labels: `instances` of schema.LABELS; of each, class index, raw and calibrated score are read.
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
    """`expected_bins` of a committed shard; masks, most of its bytes, are not read."""
    with StoredFile(uri) as file:
        shard = pq.ParquetFile(file)
        paths = [shard.schema.column(index).path for index in range(len(shard.schema))]
        labels = shard.read([path for path in paths if path.rsplit(".", 1)[-1] in _COLUMNS])
    return expected_bins(labels, num_classes=num_classes, num_bins=num_bins)
