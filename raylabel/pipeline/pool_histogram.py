"""The pool's confidence histograms: of a shard in its metadata, of all as the label stage left it."""

import json

import pyarrow as pa

from raylabel.calibration import ReliabilityBins
from raylabel.pipeline.stage import finished, stage_folder
from raylabel.schema import BINS
from raylabel.storage import RunFolder, digest, read_table

LABELS_FOLDER = stage_folder("label")

HISTOGRAM_BINS = 50
"""Bins of the pool's confidence histograms: finer than reliability bins, and the same for every setting of those."""


def labelled_pool(run: RunFolder) -> str | None:
    """Digest of the finished labels of the run's present teacher, which changes when the pool grows; None where there
    are none."""
    artifact = run.artifact(LABELS_FOLDER)
    if artifact is None or artifact["inputs"]["teacher"] != finished(run, "teacher")["fingerprint"]:
        return None
    return digest([artifact["fingerprint"], artifact["pool_digest"]])


def read_pool_histogram(run: RunFolder) -> ReliabilityBins:
    """Of all raw scores of the labelled pool; what is right is not known, so only `num` and `sum_confidence` count."""
    return ReliabilityBins.from_table(read_table(run.path(LABELS_FOLDER, "histogram.parquet")))


def histogram_to_json(histogram: pa.Table) -> str:
    """A sparse histogram of raw scores as text, for a shard's metadata."""
    shape = {key.decode(): value.decode() for key, value in histogram.schema.metadata.items()}
    return json.dumps({"shape": shape, **histogram.select(["class_index", "bin", "num", "sum_confidence"]).to_pydict()})


def histogram_from_json(text: str) -> pa.Table:
    """Back to a table of schema.BINS; what is right is not known, so `num_correct` and `num_ignored` are 0."""
    content = json.loads(text)
    shape = content.pop("shape")
    zeros = [0.0] * len(content["bin"])
    return pa.table({**content, "num_correct": zeros, "num_ignored": zeros}, schema=BINS.with_metadata(shape))
