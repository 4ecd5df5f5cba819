"""Quality of one ranking of all classes: pooled AP, and the yield of labels at a wanted precision."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raylabel.calibration.metrics.rows import checked_rows

_ROUNDING = 1e-9
"""Allowed relative error of sums of weights."""


class PrecisionRecall(NamedTuple):
    """A precision-recall curve with one point per different score, from the highest down.

    Attributes:
        precision: (K,) correct share of the detections with at least that score. 0 if they have no weight.
        recall: (K,) share of all true objects that these detections find. It never falls.
        thresholds: (K,) the scores.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    thresholds: NDArray[np.float64]


def precision_recall(
    scores: ArrayLike, is_correct: ArrayLike, num_objects: float, weights: ArrayLike | None = None
) -> PrecisionRecall:
    """Compute precision and recall of the detections from each score up. Equal scores count together.

    Args:
        scores: (N,) scores of detections of every class that are not ignored. Only their order matters. Scores in
            falling order are not sorted again.
        is_correct: (N,) outcomes.
        num_objects: number of true objects (not crowd), including those that no detection found.
        weights: (N,) >= 0. None: ones.

    Raises:
        ValueError: shapes do not match, there is no object, or more detections are correct than there are objects.
    """
    ranks, outcomes, rows = checked_rows(scores, is_correct, weights, are_probabilities=False)
    if not num_objects > 0:
        raise ValueError(f"num_objects must be > 0, got {num_objects:g}")
    falling = ranks
    if (ranks[1:] > ranks[:-1]).any():
        order = np.argsort(-ranks)
        falling, outcomes, rows = ranks[order], outcomes[order], rows[order]
    ends = np.flatnonzero(np.append(falling[1:] != falling[:-1], True)) if len(falling) else np.zeros(0, np.int64)
    total = np.cumsum(rows)[ends]
    correct = np.cumsum(rows * outcomes)[ends]
    if len(correct) and correct[-1] > num_objects * (1 + _ROUNDING):
        raise ValueError(f"num_objects must be at least the {correct[-1]:g} correct detections, got {num_objects:g}")
    precision = np.divide(correct, total, out=np.zeros(len(ends)), where=total > 0)
    return PrecisionRecall(precision, correct / num_objects, falling[ends])


def pooled_average_precision(
    scores: ArrayLike,
    is_correct: ArrayLike,
    num_objects: float,
    *,
    weights: ArrayLike | None = None,
    interpolated: bool = True,
) -> float:
    """Return AP^pool at the IoU threshold of the matching, in [0, 1]: the AP of one ranking of all classes.

    Matching is by class. Then all detections form one list, so that a class with too high scores harms the others.
    Mean AP ranks each class separately, so no monotone correction of a class can change it.

        interpolated:      mean over r = 0, 0.01, ..., 1 of max precision at recall >= r, 0 if r is not reached
        not interpolated:  sum_k (recall_k - recall_{k-1}) * precision_k

    The first is COCO's. The second is scikit-learn's `average_precision_score` times the share of objects found. Equal
    scores count together; COCO takes them in the given order. For the figure of Dave et al., average over the outcomes
    at several IoU thresholds.

    Args:
        scores: (N,) scores of detections of every class that are not ignored. Only their order matters.
        is_correct: (N,) outcomes.
        num_objects: number of true objects (not crowd) of every class.
        weights: (N,) >= 0. None: ones.
        interpolated: interpolate like COCO.

    Returns:
        The figure. It is 0 without any detection.

    Raises:
        ValueError: shapes do not match, there is no object, or more detections are correct than there are objects.

    Source: Dave et al. 2021 (arXiv 2102.01066). The interpolation follows pycocotools.
    """
    precision, recall, _ = precision_recall(scores, is_correct, num_objects, weights)
    if not len(precision):
        return 0.0
    if not interpolated:
        return float(np.sum(np.diff(recall, prepend=0.0) * precision))
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(envelope[np.searchsorted(recall, np.linspace(0, 1, 101), side="left")].mean())


class YieldAtPrecision(NamedTuple):
    """The detections that can be kept as labels at a wanted precision.

    Attributes:
        recall: share of all true objects that the kept detections find, in [0, 1]. 0 if none can be kept.
        threshold: smallest score to keep. None if none can be kept.
        precision: correct share of the kept detections, at least the wanted one. None if none can be kept.
        num: weight of the kept detections.
    """

    recall: float
    threshold: float | None
    precision: float | None
    num: float


def yield_at_precision(
    scores: ArrayLike,
    is_correct: ArrayLike,
    num_objects: float,
    *,
    precision: float = 0.8,
    weights: ArrayLike | None = None,
) -> YieldAtPrecision:
    """Find the threshold that finds most true objects while at least `precision` of the kept detections is right.

        max over t of (correct detections with score >= t) / num_objects,
        where (correct with score >= t) / (all with score >= t) >= precision

    Detections of all classes share the threshold. Equal scores are kept or dropped together. A detector with few
    different scores (8 bits, say) thus gets less than if equal scores were cut in the order of its file. It gains from
    a corrector that separates equal scores. Among thresholds with the same recall the highest is taken.

    Args:
        scores: (N,) scores of detections of every class that are not ignored. Only their order matters.
        is_correct: (N,) outcomes.
        num_objects: number of true objects (not crowd) of every class.
        precision: wanted precision, in (0, 1].
        weights: (N,) >= 0. None: ones.

    Raises:
        ValueError: shapes do not match, there is no object, more detections are correct than there are objects, or the
            precision is outside (0, 1].

    Source: ours. "Recall at fixed precision" is common in retrieval; on pseudo-labels it is the number of labels won.
    """
    if not 0 < precision <= 1:
        raise ValueError(f"precision must be in (0, 1], got {precision:g}")
    curve = precision_recall(scores, is_correct, num_objects, weights)
    is_enough = curve.precision >= precision * (1 - _ROUNDING)
    recalls = np.where(is_enough, curve.recall, 0.0)
    if not recalls.any():
        return YieldAtPrecision(recall=0.0, threshold=None, precision=None, num=0.0)
    best = int(np.argmax(recalls))
    recall, reached = float(recalls[best]), float(curve.precision[best])
    return YieldAtPrecision(
        recall=recall,
        threshold=float(curve.thresholds[best]),
        precision=reached,
        num=recall * float(num_objects) / reached,
    )
