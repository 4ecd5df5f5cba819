"""Adaptive bins: as many detections in each bin, wherever the scores are."""

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
    """Bin of each score, 0 to `num_bins - 1`, so that every bin holds the same weight up to ties.

    A score's place among all, from 0 to 1, is the weight below it plus half the weight equal to it; a bin takes the
    places of one `num_bins`-th. So equal scores share a bin, a weight of three is as three rows of the same score, and
    N different scores give bins whose counts differ by one at most. Scores are compared in single precision, as they
    are stored.

    Args:
        scores: (N,).
        num_bins: >= 1.
        weights: (N,) >= 0; ones where None.
        groups: (N,) >= 0: each group has bins of its own.

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
    """Count detections in bins of equal mass, over which every figure of `metrics.binned` can be taken.

    The bins are those of these detections: unlike `ReliabilityBins.from_detections`, counts of several sets can't be
    added, and classes with bins of their own can't be pooled.

    Args:
        detections: with known outcomes; ignored ones count nowhere, `num_ignored` is 0.
        num_bins: bins, of each class or of all.
        scores: (N,) confidences to bin by, such as calibrated ones; the raw scores where None.
        per_class: bins of its own for each class, counts of shape (num_classes, num_bins); else of all detections
            whatever their class, (1, num_bins).

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
    """`ece` over bins of equal mass, in [0, 1].

    With N / num_bins detections in every bin it is netcal's `ECE` and `ACE` with `equal_intervals=False`, and Nixon's
    ACE of one class.

    Raises:
        ValueError: no detection.

    Source: Nixon et al. 2019 (arXiv 1904.01685).
    """
    return ece(equal_mass_bins(detections, num_bins, scores, per_class=False), debiased=debiased)


def class_adaptive_ccece(
    detections: Detections, num_bins: int, scores: NDArray[np.floating] | None = None
) -> NDArray[np.float64]:
    """`class_ccece` over bins of equal mass within each class, (num_classes,); NaN for a class without a detection.

    A class of fewer detections than bins has one detection a bin, and the figure is then the mean of |score - outcome|.

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
    """`ccece` over bins of equal mass within each class, in [0, 1].

    Raises:
        ValueError: no class reaches `min_count`.

    Source: Nixon et al. 2019 (arXiv 1904.01685), on the predicted class alone.
    """
    return ccece(equal_mass_bins(detections, num_bins, scores), min_count=min_count, debiased=debiased)


def _small(groups: NDArray[np.integer]) -> NDArray[np.integer]:
    """In 16 bits where they fit: NumPy then sorts by radix, in linear time."""
    return groups.astype(np.uint16) if groups.max() < 2**16 else groups


def _changes(values: NDArray) -> NDArray[np.bool_]:
    """Whether each value differs from the one before; the first doesn't."""
    return np.concatenate([[False], values[1:] != values[:-1]])
