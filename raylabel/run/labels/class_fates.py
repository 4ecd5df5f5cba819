"""What became of the predictions of each class: labels/classes.parquet, one row per class."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylabel.config import SelectionConfig
from raylabel.files.reading import exists
from raylabel.files.tables import commit_table, read_table
from raylabel.predictions.selection import KEPT, REASONS, Selection, score_thresholds
from raylabel.run.classes import RunClasses
from raylabel.run.folder import RunFolder
from raylabel.run.labels.shards import LABELS_FOLDER
from raylabel.schema import CLASS_FATES, nullable


@dataclass(frozen=True, kw_only=True)
class ClassFates:
    """Counts of predictions by class and fate. The counts of many shards add up.

    Attributes:
        counts: (num_classes, 1 + len(REASONS)) int64: the kept predictions, then those dropped for each of REASONS.
        max_scores: (num_classes,) float32: highest calibrated score of any prediction, -inf without a prediction.
    """

    counts: NDArray[np.int64]
    max_scores: NDArray[np.float32]

    @classmethod
    def none(cls, num_classes: int) -> "ClassFates":
        """Return the counts of no prediction."""
        counts = np.zeros((num_classes, 1 + len(REASONS)), np.int64)
        return cls(counts=counts, max_scores=np.full(num_classes, -np.inf, np.float32))

    @classmethod
    def of(
        cls,
        selection: Selection,
        class_indices: NDArray[np.integer],
        calibrated_scores: NDArray[np.floating],
        *,
        num_classes: int,
    ) -> "ClassFates":
        """Count N predictions, given what became of each, its class and its calibrated score, all (N,)."""
        counted = cls.none(num_classes)
        np.add.at(counted.counts, (class_indices, selection.fates - KEPT), 1)
        np.maximum.at(counted.max_scores, class_indices, calibrated_scores.astype(np.float32))
        return counted

    def __add__(self, other: "ClassFates") -> "ClassFates":
        return ClassFates(counts=self.counts + other.counts, max_scores=np.maximum(self.max_scores, other.max_scores))

    @property
    def num_kept(self) -> NDArray[np.int64]:
        """(num_classes,) number of pseudo-labels."""
        return self.counts[:, 0]

    @property
    def dropped(self) -> dict[str, int]:
        """Reason -> number of dropped predictions of all classes."""
        return dict(zip(REASONS, self.counts[:, 1:].sum(axis=0).tolist(), strict=True))

    def to_table(self, classes: RunClasses, selection: SelectionConfig) -> pa.Table:
        """Return the counts as rows of `schema.CLASS_FATES`."""
        dropped = self.counts[:, 1:]
        reasons = [REASONS[place] for place in dropped.argmax(axis=1)]
        columns = {
            "class_index": np.arange(classes.num_classes, dtype=np.int32),
            "name": list(classes.names),
            "frequency_group": classes.frequency_groups.tolist(),
            "num_predictions": self.counts.sum(axis=1),
            "max_calibrated_score": nullable(self.max_scores.astype(np.float64)),
            "min_score": score_thresholds(selection, classes.frequency_groups),
            "num_kept": self.num_kept,
            **{f"num_dropped_{reason}": dropped[:, place] for place, reason in enumerate(REASONS)},
            "most_frequent_reason": pa.array(reasons, pa.string(), mask=dropped.sum(axis=1) == 0),
        }
        return pa.table(columns, schema=CLASS_FATES)


def commit_class_fates(run: RunFolder, table: pa.Table) -> None:
    """Write labels/classes.parquet."""
    commit_table(_uri(run), table)


def load_class_fates(run: RunFolder) -> pa.Table | None:
    """Read labels/classes.parquet (schema.CLASS_FATES). None if the labels are not finished, or an early version made
    them."""
    return read_table(_uri(run)) if run.artifact(LABELS_FOLDER) and exists(_uri(run)) else None


def _uri(run: RunFolder) -> str:
    return run.path(LABELS_FOLDER, "classes.parquet")
