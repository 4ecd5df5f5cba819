"""The pool's confidence histogram as the label stage left it."""

from raylabel.calibration import ReliabilityBins
from raylabel.pipeline.stage import finished, stage_folder
from raylabel.storage import RunFolder, read_table

LABELS_FOLDER = stage_folder("label")


def labelled_pool(run: RunFolder) -> str | None:
    """Fingerprint of the finished labels of the run's present teacher; None where there are none."""
    artifact = run.artifact(LABELS_FOLDER)
    if artifact is None or artifact["inputs"]["teacher"] != finished(run, "teacher")["fingerprint"]:
        return None
    return artifact["fingerprint"]


def read_pool_histogram(run: RunFolder) -> ReliabilityBins:
    """Of all raw scores of the labelled pool; what is right is not known, so only `num` and `sum_confidence` count."""
    return ReliabilityBins.from_table(read_table(run.path(LABELS_FOLDER, "histogram.parquet")))
