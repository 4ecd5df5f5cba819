"""Reliability bins: mergeable counts per class and confidence bin."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylabel.calibration.detections import Detections
from raylabel.predictions.matching import Outcome
from raylabel.schema import BINS

_QUANTUM = 2.0**-28
"""Bins count in multiples of this quantum. Sums below 2**25 are then exact in float64 in any order."""

_UNSURE = np.float32(2.0**-20)
"""A tolerance far above the single-precision rounding errors of a score, an edge and their product."""

_NUM_AT_A_TIME = 2**16
"""Number of detections per step. Their temporary arrays stay in the cache."""


def bin_edges(num_bins: int) -> NDArray[np.float32]:
    """Return the `num_bins + 1` edges of bins of equal width over (0, 1], in single precision like stored scores."""
    return (np.arange(num_bins + 1) / num_bins).astype(np.float32)


def bin_of(scores: NDArray[np.floating], num_bins: int) -> NDArray[np.int64]:
    """Return the bin of each score, 0 to `num_bins - 1`.

    A score on an edge belongs to the bin below the edge. A score of 0 belongs to the first bin. Scores are compared in
    single precision, so that a stored table gives the same bins when it is read back.
    """
    singles = np.asarray(scores).astype(np.float32)
    scaled = singles * np.float32(num_bins)
    places = np.ceil(scaled).astype(np.int64) - 1
    # The edges decide close to an edge, because rounding may move the product across it.
    unsure = np.flatnonzero(np.abs(scaled - np.rint(scaled)) <= _UNSURE * num_bins)
    places[unsure] = np.searchsorted(bin_edges(num_bins), singles[unsure], side="left") - 1
    return np.clip(places, 0, num_bins - 1)


@dataclass(frozen=True, kw_only=True)
class ReliabilityBins:
    """Weighted counts per class and bin, each of shape (num_classes, num_bins), float64.

    Bins merge by `+`. Any partition of the detections, merged in any order, gives the same bins to the last bit. For
    this, each weight and each weighted score is rounded to a multiple of 2**-28 (4e-9). Their sums are exact in float64
    below 2**25: 34 million detections of weight 1 in one bin of one class. Above that, last bits may differ.

    Attributes:
        num: weight of the scored (correct or incorrect) detections.
        sum_confidence: sum of weight * score of the scored detections.
        num_correct: weight of the correct detections.
        num_ignored: weight of the ignored detections. No other count includes them.

    Examples:
        >>> from dataclasses import replace
        >>> import numpy as np
        >>> import raylabel as rl
        >>> detections = rl.Detections.of_scores([0, 0, 1], [0.25, 0.75, 0.75], num_classes=2)
        >>> detections = replace(detections, outcomes=np.array([0, 1, 1], np.int8))
        >>> bins = rl.ReliabilityBins.from_detections(detections, num_bins=2)
        >>> bins.num.tolist(), bins.num_correct.tolist()
        ([[1.0, 1.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]])
        >>> (bins + bins).pooled().accuracy().tolist()
        [[0.0, 1.0]]
    """

    num: NDArray[np.float64]
    sum_confidence: NDArray[np.float64]
    num_correct: NDArray[np.float64]
    num_ignored: NDArray[np.float64]

    @property
    def num_classes(self) -> int:
        return int(self.num.shape[0])

    @property
    def num_bins(self) -> int:
        return int(self.num.shape[1])

    @staticmethod
    def zeros(num_classes: int, num_bins: int) -> "ReliabilityBins":
        """Return bins without a detection, the identity of `+`."""
        shape = (num_classes, num_bins)
        return ReliabilityBins(
            num=np.zeros(shape),
            sum_confidence=np.zeros(shape),
            num_correct=np.zeros(shape),
            num_ignored=np.zeros(shape),
        )

    @staticmethod
    def from_detections(
        detections: Detections, num_bins: int, scores: NDArray[np.floating] | None = None
    ) -> "ReliabilityBins":
        """Count detections.

        Args:
            detections: detections with known outcomes.
            num_bins: number of bins over (0, 1].
            scores: (N,) confidences to bin by, such as calibrated scores. None: the raw scores.

        Raises:
            ValueError: the outcomes are unknown.
        """
        confidences = detections.raw_scores if scores is None else np.asarray(scores)
        outcomes, num_cells = detections.known_outcomes, detections.num_classes * num_bins
        weight, confidence = np.zeros((len(Outcome), num_cells)), np.zeros((len(Outcome), num_cells))
        step = max(_NUM_AT_A_TIME, 4 * weight.size)
        for start in range(0, len(detections), step):
            rows = slice(start, start + step)
            cells = outcomes[rows] * np.int64(num_cells)
            cells += detections.class_indices[rows] * np.int64(num_bins)
            cells += bin_of(confidences[rows], num_bins)
            weights = detections.weights[rows] / _QUANTUM
            weight += np.bincount(cells, np.rint(weights), weight.size).reshape(weight.shape)
            weights *= confidences[rows]
            confidence += np.bincount(cells, np.rint(weights), weight.size).reshape(weight.shape)
        shape = (len(Outcome), detections.num_classes, num_bins)
        weight_OCB, confidence_OCB = (weight * _QUANTUM).reshape(shape), (confidence * _QUANTUM).reshape(shape)
        return ReliabilityBins(
            num=weight_OCB[Outcome.INCORRECT] + weight_OCB[Outcome.CORRECT],
            sum_confidence=confidence_OCB[Outcome.INCORRECT] + confidence_OCB[Outcome.CORRECT],
            num_correct=weight_OCB[Outcome.CORRECT],
            num_ignored=weight_OCB[Outcome.IGNORED],
        )

    def __add__(self, other: "ReliabilityBins") -> "ReliabilityBins":
        if self.num.shape != other.num.shape:
            raise ValueError(f"bins to add must have the same shape, got {self.num.shape} and {other.num.shape}")
        return ReliabilityBins(
            num=self.num + other.num,
            sum_confidence=self.sum_confidence + other.sum_confidence,
            num_correct=self.num_correct + other.num_correct,
            num_ignored=self.num_ignored + other.num_ignored,
        )

    def of_classes(self, classes: NDArray[np.bool_]) -> "ReliabilityBins":
        """Return the bins of the chosen classes: a mask of shape (num_classes,) or class indices."""
        return ReliabilityBins(
            num=self.num[classes],
            sum_confidence=self.sum_confidence[classes],
            num_correct=self.num_correct[classes],
            num_ignored=self.num_ignored[classes],
        )

    def pooled(self) -> "ReliabilityBins":
        """Sum over classes, shape (1, num_bins)."""
        return ReliabilityBins(
            num=self.num.sum(axis=0, keepdims=True),
            sum_confidence=self.sum_confidence.sum(axis=0, keepdims=True),
            num_correct=self.num_correct.sum(axis=0, keepdims=True),
            num_ignored=self.num_ignored.sum(axis=0, keepdims=True),
        )

    def confidence(self) -> NDArray[np.float64]:
        """Return the mean confidence per class and bin. An empty bin gives NaN."""
        return _ratio(self.sum_confidence, self.num)

    def accuracy(self) -> NDArray[np.float64]:
        """Return the share of correct detections per class and bin. An empty bin gives NaN."""
        return _ratio(self.num_correct, self.num)

    def to_table(self) -> pa.Table:
        """Return a table of `schema.BINS` with one row per filled bin, sorted by class and bin.

        The table's metadata keeps the shape.
        """
        classes, bins = np.nonzero((self.num > 0) | (self.num_ignored > 0))
        columns = {
            "class_index": classes.astype(np.int32),
            "bin": bins.astype(np.int32),
            "num": self.num[classes, bins],
            "sum_confidence": self.sum_confidence[classes, bins],
            "num_correct": self.num_correct[classes, bins],
            "num_ignored": self.num_ignored[classes, bins],
        }
        shape = {"num_classes": str(self.num_classes), "num_bins": str(self.num_bins)}
        return pa.table(columns, schema=BINS.with_metadata(shape))

    @staticmethod
    def from_table(table: pa.Table) -> "ReliabilityBins":
        """Rebuild the bins from the output of `to_table`."""
        metadata = table.schema.metadata or {}
        bins = ReliabilityBins.zeros(int(metadata[b"num_classes"]), int(metadata[b"num_bins"]))
        cells = table["class_index"].to_numpy(), table["bin"].to_numpy()
        bins.num[cells] = table["num"].to_numpy()
        bins.sum_confidence[cells] = table["sum_confidence"].to_numpy()
        bins.num_correct[cells] = table["num_correct"].to_numpy()
        bins.num_ignored[cells] = table["num_ignored"].to_numpy()
        return bins


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(numerator, denominator, out=np.full(denominator.shape, np.nan), where=denominator > 0)
