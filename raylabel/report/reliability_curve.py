"""The points of a reliability diagram: accuracy over confidence with intervals, from bins."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylabel.calibration.bins import ReliabilityBins
from raylabel.calibration.metrics.binned import credible_interval
from raylabel.predictions.matching import Outcome

FEW = 10.0
"""Effective detections that a bin needs before its accuracy is drawn as more than a hint."""


@dataclass(frozen=True, kw_only=True)
class MeanWeights:
    """Sum of squared weights over sum of weights, per class. It is 1 if every weight is 1.

    Attributes:
        correct: (num_classes,) over correct detections.
        incorrect: (num_classes,) over incorrect detections.
    """

    correct: NDArray[np.float64]
    incorrect: NDArray[np.float64]


def mean_weights(
    class_indices: NDArray[np.integer],
    outcomes: NDArray[np.integer],
    weights: NDArray[np.floating],
    *,
    num_classes: int,
) -> MeanWeights:
    """Compute mean weights from classes, outcomes and weights of detections, each of shape (N,).

    A class without a detection of an outcome gets 1.
    """

    def ratio(outcome: Outcome) -> NDArray[np.float64]:
        rows = outcomes == outcome
        sums = np.bincount(class_indices[rows], weights[rows], num_classes)
        squares = np.bincount(class_indices[rows], weights[rows].astype(np.float64) ** 2, num_classes)
        return np.divide(squares, sums, out=np.ones(num_classes), where=sums > 0)

    return MeanWeights(correct=ratio(Outcome.CORRECT), incorrect=ratio(Outcome.INCORRECT))


@dataclass(frozen=True, kw_only=True)
class ReliabilityCurve:
    """The points of one diagram; all attributes have shape (K,).

    A point is one bin with detections, or several neighbouring bins.

    Attributes:
        first_bin, last_bin: first and last bin of a point, rising.
        confidence: mean confidence.
        accuracy: share of correct detections.
        low, high: 95% credible interval of the accuracy.
        num: weight of the detections.
        num_effective: Kish's effective number of detections; the interval uses it.
    """

    first_bin: NDArray[np.int64]
    last_bin: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    num: NDArray[np.float64]
    num_effective: NDArray[np.float64]

    @property
    def is_few(self) -> NDArray[np.bool_]:
        """(K,) whether a point has too few effective detections to be read alone."""
        return self.num_effective < FEW


def reliability_curve(
    bins: ReliabilityBins,
    classes: NDArray[np.bool_],
    weights: MeanWeights | None = None,
    *,
    min_effective: float = 0,
) -> ReliabilityCurve:
    """Compute the curve of some classes taken together.

    Args:
        bins: bins of all classes.
        classes: (num_classes,) mask.
        weights: mean weights of the binned detections; they give the effective number of each bin. A class's correct
            detections are assumed to weigh alike in all bins, and so are its incorrect ones. None means that every
            weight is 1.
        min_effective: neighbouring bins are merged until a point has this many effective detections. Merging starts at
            the most confident bin. The rest at the low end joins the last point.
    """
    chosen = bins.of_classes(classes)
    squares = chosen.num
    if weights is not None:
        correct, incorrect = weights.correct[classes, None], weights.incorrect[classes, None]
        squares = chosen.num_correct * correct + (chosen.num - chosen.num_correct) * incorrect
    columns = np.stack([chosen.num, chosen.sum_confidence, chosen.num_correct, squares]).sum(axis=1)
    parts = _parts(columns[0], columns[3], min_effective)
    num, sum_confidence, num_correct, num_squared = (
        np.array([columns[:, first : last + 1].sum(axis=1) for first, last in parts]).reshape(-1, 4).T
    )
    accuracy, num_effective = num_correct / num, num**2 / num_squared
    low, high = credible_interval(accuracy, num_effective)
    return ReliabilityCurve(
        first_bin=np.array([first for first, _ in parts], dtype=np.int64),
        last_bin=np.array([last for _, last in parts], dtype=np.int64),
        confidence=sum_confidence / num,
        accuracy=accuracy,
        low=low,
        high=high,
        num=num,
        num_effective=num_effective,
    )


def _parts(num: NDArray[np.float64], squares: NDArray[np.float64], min_effective: float) -> list[tuple[int, int]]:
    """Return first and last bin of each point, rising. Every bin with detections is in one point."""
    held = np.flatnonzero(num > 0).tolist()
    parts: list[tuple[int, int]] = []
    last = None
    for bin_index in reversed(held):
        last = bin_index if last is None else last
        span = slice(bin_index, last + 1)
        if num[span].sum() ** 2 / squares[span].sum() >= min_effective:
            parts.append((bin_index, last))
            last = None
    if last is not None:
        _, previous_last = parts.pop() if parts else (0, last)
        parts.append((held[0], previous_last))
    return parts[::-1]
