"""Adaptive bins: the same number of detections in each bin."""

import numpy as np
from numpy.typing import NDArray

from raylabel.calibration.bins import ReliabilityBins
from raylabel.calibration.detections import Detections
from raylabel.calibration.metrics.binned import ccece, class_ccece, ece


def equal_mass_bin_of(
    scores: NDArray[np.floating],
    num_bins: int,
    weights: NDArray[np.float64] | None = None,
    groups: NDArray[np.integer] | None = None,
) -> NDArray[np.int64]:
    """Return the bin of each score, 0 to `num_bins - 1`. Every bin holds the same weight up to ties.

    The rank of a score, from 0 to 1, is the weight below it plus half the weight equal to it. Each bin takes a
    `num_bins`-th of the ranks. Equal scores thus share a bin, and a weight of 3 counts as three rows of the same score.
    N different scores give bins whose counts differ by at most one. Scores are compared in single precision, as stored.

    Args:
        scores: (N,) scores.
        num_bins: number of bins, >= 1.
        weights: (N,) >= 0. None: ones.
        groups: (N,) >= 0. Each group gets separate bins.

    Raises:
        ValueError: `num_bins` < 1.
    """
    if num_bins < 1:
        raise ValueError(f"num_bins must be >= 1, got {num_bins}")
    num = len(scores)
    if num == 0:
        return np.zeros(0, dtype=np.int64)
    keys = np.asarray(scores).astype(np.float32)
    order = np.argsort(keys)
    if groups is not None:
        order = order[np.argsort(_small(np.asarray(groups))[order], kind="stable")]
    keys = keys[order]
    starts_group = np.zeros(num, dtype=bool) if groups is None else _changes(np.asarray(groups)[order])
    starts_group[0] = True
    starts_tie = starts_group | _changes(keys)
    total = np.concatenate([[0.0], np.cumsum(np.ones(num) if weights is None else np.asarray(weights)[order])])

    tie_starts = np.flatnonzero(starts_tie)
    tie_ends = np.append(tie_starts[1:], num)
    group_starts = np.flatnonzero(starts_group)
    group_of_tie = np.cumsum(starts_group[tie_starts]) - 1
    group_begin, group_end = total[group_starts], total[np.append(group_starts[1:], num)]
    mass = np.maximum(group_end - group_begin, np.finfo(float).tiny)[group_of_tie]
    place = ((total[tie_starts] + total[tie_ends]) / 2 - group_begin[group_of_tie]) / mass
    bin_of_tie = np.clip((place * num_bins).astype(np.int64), 0, num_bins - 1)
    bins = np.empty(num, dtype=np.int64)
    bins[order] = np.repeat(bin_of_tie, tie_ends - tie_starts)
    return bins


def equal_mass_bins(
    detections: Detections, num_bins: int, scores: NDArray[np.floating] | None = None, *, per_class: bool = True
) -> ReliabilityBins:
    """Count detections in bins of equal mass. Every figure of `metrics.binned` can use these bins.

    The bins depend on the detections. So, unlike `ReliabilityBins.from_detections`, counts of several sets cannot be
    added, and bins per class cannot be pooled.

    Args:
        detections: detections with known outcomes. Ignored detections are not counted; `num_ignored` is 0.
        num_bins: number of bins, per class or for all.
        scores: (N,) confidences to bin by, such as calibrated scores. None: the raw scores.
        per_class: True: separate bins per class, shape (num_classes, num_bins). False: bins of all detections, shape
            (1, num_bins).

    Raises:
        ValueError: the outcomes are unknown, or `num_bins` < 1.

    Source: Nixon et al. 2019 (arXiv 1904.01685); weights and ties are ours, see `equal_mass_bin_of`.
    """
    rows = detections.is_scored
    confidences = (detections.raw_scores if scores is None else np.asarray(scores, dtype=np.float64))[rows]
    weights = detections.weights[rows]
    classes = detections.class_indices[rows] if per_class else np.zeros(len(confidences), dtype=np.int32)
    num_classes = detections.num_classes if per_class else 1
    cells = equal_mass_bin_of(confidences, num_bins, weights, classes if per_class else None)
    cells += classes.astype(np.int64) * num_bins

    def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
        counts = np.bincount(cells, values, num_classes * num_bins).astype(np.float64)
        return counts.reshape(num_classes, num_bins)

    return ReliabilityBins(
        num=total(weights),
        sum_confidence=total(weights * confidences),
        num_correct=total(weights * detections.is_correct[rows]),
        num_ignored=np.zeros((num_classes, num_bins)),
    )


def adaptive_ece(
    detections: Detections, num_bins: int, scores: NDArray[np.floating] | None = None, *, debiased: bool = False
) -> float:
    """Return `ece` over bins of equal mass, in [0, 1].

    If every bin holds N / num_bins detections, it equals netcal's `ECE` and `ACE` with `equal_intervals=False`, and
    Nixon's ACE of one class.

    Raises:
        ValueError: there is no detection.

    Source: Nixon et al. 2019 (arXiv 1904.01685).
    """
    return ece(equal_mass_bins(detections, num_bins, scores, per_class=False), debiased=debiased)


def class_adaptive_ccece(
    detections: Detections, num_bins: int, scores: NDArray[np.floating] | None = None
) -> NDArray[np.float64]:
    """Return `class_ccece` over bins of equal mass per class, (num_classes,). NaN without a detection.

    A class with fewer detections than bins has one detection per bin. Its figure is the mean of |score - outcome|.

    Source: Nixon et al. 2019 (arXiv 1904.01685), on the predicted class alone.
    """
    return class_ccece(equal_mass_bins(detections, num_bins, scores))


def adaptive_ccece(
    detections: Detections,
    num_bins: int,
    scores: NDArray[np.floating] | None = None,
    *,
    min_count: float = 1,
    debiased: bool = False,
) -> float:
    """Return `ccece` over bins of equal mass per class, in [0, 1].

    Raises:
        ValueError: no class reaches `min_count`.

    Source: Nixon et al. 2019 (arXiv 1904.01685), on the predicted class alone.
    """
    return ccece(equal_mass_bins(detections, num_bins, scores), min_count=min_count, debiased=debiased)


def _small(groups: NDArray[np.integer]) -> NDArray[np.integer]:
    """Return the groups in 16 bits if they fit, because NumPy then uses a radix sort, in linear time."""
    return groups.astype(np.uint16) if groups.max() < 2**16 else groups


def _changes(values: NDArray) -> NDArray[np.bool_]:
    """Return whether each value differs from the one before. The first is False."""
    return np.concatenate([[False], values[1:] != values[:-1]])
