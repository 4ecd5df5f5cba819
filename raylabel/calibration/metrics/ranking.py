"""What a ranking of all classes' detections is worth: pooled AP, and the yield of labels at a wanted precision."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raylabel.calibration.metrics.rows import checked_rows

_ROUNDING = 1e-9
"""Relative error that sums of weights may have."""


class PrecisionRecall(NamedTuple):
    """A precision-recall curve, a point for each different score, from the highest down.

    Attributes:
        precision: (K,) share of the detections of at least that score that are right; 0 where they have no weight.
        recall: (K,) share of all true objects among them, never falling.
        thresholds: (K,) the scores.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    thresholds: NDArray[np.float64]


def precision_recall(
    scores: ArrayLike, is_correct: ArrayLike, num_objects: float, weights: ArrayLike | None = None
) -> PrecisionRecall:
    """Precision and recall of the detections from each score up; equal scores are taken together.

    Args:
        scores: (N,) of detections that are not ignored, of every class; only their order matters. Scores that
            fall already are not sorted again.
        is_correct: (N,) outcomes.
        num_objects: true objects (not crowd) that could be found, those that no detection found included.
        weights: (N,) >= 0; ones where None.

    Raises:
        ValueError: shapes that don't fit, no object, or more correct detections than objects.
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
    """AP^pool at the matching's IoU threshold, in [0, 1]: the average precision of one ranking of all classes.

    Matching is by class; then all detections are one list, so that a class whose scores are too high costs the others.
    (Mean AP takes each class's ranking apart: no monotone correction of a class can change it.)

        interpolated:      mean over r = 0, .01, ..., 1 of max precision at recall >= r, 0 where r is not reached
        not interpolated:  sum_k (recall_k - recall_{k-1}) * precision_k

    The first is COCO's, the second scikit-learn's `average_precision_score` times the share of objects found. Equal
    scores are taken together, where COCO takes them in the order given. Average over several IoU thresholds' outcomes
    for the figure of Dave et al.

    Args:
        scores: (N,) of detections that are not ignored, of every class; only their order matters.
        is_correct: (N,) outcomes.
        num_objects: true objects (not crowd) of every class.
        weights: (N,) >= 0; ones where None.
        interpolated: as COCO does.

    Returns:
        0 without any detection: nothing is found.

    Raises:
        ValueError: shapes that don't fit, no object, or more correct detections than objects.

    Source: Dave et al. 2021 (arXiv 2102.01066); interpolation as in pycocotools.
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
        recall: share of all true objects among them, in [0, 1]; 0 where nothing can be kept.
        threshold: keep detections of at least this score; None where nothing can be kept.
        precision: share of them that is right, at least the wanted one; None where nothing can be kept.
        num: their weight.
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
    """The largest share of all true objects that one threshold finds while `precision` of what it keeps is right.

        max over t of (correct detections with score >= t) / num_objects,
        where (correct with score >= t) / (all with score >= t) >= precision

    Detections of all classes share the threshold, and equal scores are kept or dropped together, as a threshold does. A
    detector of few different scores (of 8 bits, say) thus gets less than if equal ones were cut in the order of its
    file, and gains from a corrector that tells them apart. Of thresholds with the same recall the highest is taken.

    Args:
        scores: (N,) of detections that are not ignored, of every class; only their order matters.
        is_correct: (N,) outcomes.
        num_objects: true objects (not crowd) of every class.
        precision: wanted, in (0, 1].
        weights: (N,) >= 0; ones where None.

    Raises:
        ValueError: shapes that don't fit, no object, more correct detections than objects, or such a precision.

    Source: ours; "recall at fixed precision" is usual in retrieval, on pseudo-labels it is the labels gained.
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
