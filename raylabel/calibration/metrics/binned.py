"""Distance of confidence from accuracy: CCECE, bias, ECE, MCE and related figures, proper scores, intervals.

Figures over bins take `ReliabilityBins` of equal width, or `equal_mass_bins`. All figures are weighted: a detection of
weight 3 counts as three detections.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtr

from raylabel.calibration.bins import ReliabilityBins
from raylabel.calibration.detections import Detections
from raylabel.calibration.metrics.rows import checked_rows
from raylabel.dataset.frequency import FrequencyGroup

PROBABILITY_FLOOR = 1e-6
"""Probabilities are clipped to this distance from 0 and 1 in the log likelihood. A certain mistake then costs 13.8."""

_ANY = float(np.finfo(float).tiny)
"""A count that every detection reaches."""


def class_bias(bins: ReliabilityBins) -> NDArray[np.float64]:
    """Return the signed bias of each class, (num_classes,) in [-1, 1]. A value > 0 is overconfident.

    A class without a detection has NaN.

        bias_c = sum_b num_cb / num_c * (confidence_cb - accuracy_cb) = mean confidence - accuracy

    Source: Porcher et al. 2024 (arXiv 2403.11675).
    """
    num = bins.num.sum(axis=1)
    gap = (bins.sum_confidence - bins.num_correct).sum(axis=1)
    return np.divide(gap, num, out=np.full(num.shape, np.nan), where=num > 0)


def class_ccece(bins: ReliabilityBins) -> NDArray[np.float64]:
    """Return the expected calibration error of each class, (num_classes,) in [0, 1]. NaN without a detection.

        CCECE_c = sum_b num_cb / num_c * |confidence_cb - accuracy_cb|

    Source: Porcher et al. 2024 (arXiv 2403.11675); the estimator is ours, see docs/method.md.
    """
    num = bins.num.sum(axis=1)
    gap = np.abs(bins.sum_confidence - bins.num_correct).sum(axis=1)
    return np.divide(gap, num, out=np.full(num.shape, np.nan), where=num > 0)


def class_ccece_debiased(bins: ReliabilityBins) -> NDArray[np.float64]:
    """Return `class_ccece` minus the part that chance adds, (num_classes,) in [0, 1]. NaN without a detection.

    Binned absolute errors of few samples are too high. A perfectly calibrated class with one detection has an error of
    at least min(p, 1 - p). The excess is estimated per bin: the gap d is taken as the truth, and Gaussian noise with
    the standard error s of the accuracy is added. The mean absolute value follows a folded normal distribution:

        debiased_c = max(0, sum_b num_cb / num_c * (2 |d_cb| - E|d_cb + s_cb z|)),   z ~ N(0, 1)
        s_cb^2 = p (1 - p) / num_cb,   p = (num_correct_cb + 1/2) / (num_cb + 1)

    Source: Kumar, Liang and Ma 2019 (arXiv 1909.10155). They draw the noise; here it is integrated in closed form. The
    Jeffreys smoothing of p is ours: a bin with all or none correct has an error too.
    """
    num = np.maximum(bins.num, 1e-300)
    smoothed = (bins.num_correct + 0.5) / (bins.num + 1)
    error = np.sqrt(smoothed * (1 - smoothed) / num)
    gap = np.abs(bins.sum_confidence - bins.num_correct) / num
    noisy_gap = error * np.sqrt(2 / np.pi) * np.exp(-((gap / error) ** 2) / 2) + gap * (1 - 2 * ndtr(-gap / error))
    excess = np.where(bins.num > 0, noisy_gap - gap, 0.0)
    per_bin = np.where(bins.num > 0, gap - excess, 0.0)
    total = bins.num.sum(axis=1)
    means = np.divide((bins.num * per_bin).sum(axis=1), total, out=np.full(total.shape, np.nan), where=total > 0)
    return np.maximum(means, 0.0)


def ccece(bins: ReliabilityBins, *, min_count: float = 1, debiased: bool = False) -> float:
    """Return the class-conditional expected calibration error, in [0, 1].

    Every class weighs the same, so that frequent classes do not hide rare ones.

    Args:
        bins: counts of shape (num_classes, num_bins).
        min_count: classes with fewer (weighted) detections are left out.
        debiased: use `class_ccece_debiased` per class.

    Raises:
        ValueError: no class reaches `min_count`.

    Examples:
        >>> from dataclasses import replace
        >>> import numpy as np
        >>> import raylabel as rl
        >>> from raylabel.calibration.metrics.binned import class_ccece
        >>> detections = rl.Detections.of_scores([0, 0, 0, 1], [0.75, 0.75, 0.75, 0.5], num_classes=2)
        >>> detections = replace(detections, outcomes=np.array([1, 1, 1, 0], np.int8))
        >>> bins = rl.ReliabilityBins.from_detections(detections, num_bins=10)
        >>> class_ccece(bins).tolist()
        [0.25, 0.5]
        >>> rl.ccece(bins)
        0.375

    Source: Porcher et al. 2024 (arXiv 2403.11675); the estimator is ours, see docs/method.md.
    """
    per_class = class_ccece_debiased(bins) if debiased else class_ccece(bins)
    return float(per_class[_counted(bins, min_count)].mean())


def mean_bias(bins: ReliabilityBins, *, min_count: float = 1) -> float:
    """Return the mean of `class_bias` over classes with at least `min_count` (weighted) detections, in [-1, 1].

        mean_c (mean confidence of c - accuracy of c)

    Raises:
        ValueError: no class reaches `min_count`.

    Source: see `class_bias`. The mean over classes is ours.
    """
    return float(class_bias(bins)[_counted(bins, min_count)].mean())


def ece(bins: ReliabilityBins, *, debiased: bool = False) -> float:
    """Return the expected calibration error over the detections of all classes, in [0, 1].

        ECE = sum_b num_b / num * |confidence_b - accuracy_b|

    It equals torchmetrics' `binary_calibration_error`, netcal's `ECE` and hotcoco's `calibration_error`, except for
    scores on an edge. Such a score belongs to the bin below here, and to the bin above there.

    Args:
        bins: bins of any number of classes. They are pooled.
        debiased: subtract the part that chance adds, see `class_ccece_debiased`.

    Raises:
        ValueError: there is no detection.

    Source: Naeini, Cooper and Hauskrecht 2015; Guo et al. 2017 (arXiv 1706.04599).
    """
    return ccece(bins.pooled(), min_count=_ANY, debiased=debiased)


def class_mce(bins: ReliabilityBins, *, min_count: float = 0) -> NDArray[np.float64]:
    """Return the maximum calibration error of each class, (num_classes,) in [0, 1]. NaN if no bin counts.

        MCE_c = max_b |confidence_cb - accuracy_cb|

    One detection can decide it: a bin with a single wrong detection at 0.99 gives 0.99. Bins of less weight than
    `min_count` are left out.

    Source: Naeini, Cooper and Hauskrecht 2015.
    """
    gaps = np.where(bins.num >= min_count, _gaps(bins), np.nan)
    largest = np.max(np.nan_to_num(gaps, nan=-1.0), axis=1)
    return np.where(largest >= 0, largest, np.nan)


def mce(bins: ReliabilityBins, *, min_count: float = 0) -> float:
    """Return the maximum calibration error over the bins of all classes together, in [0, 1].

        MCE = max_b |confidence_b - accuracy_b|

    It equals torchmetrics' `norm="max"` and netcal's `MCE`, except for scores on an edge (see `ece`).

    Args:
        bins: bins of any number of classes. They are pooled.
        min_count: bins of less weight are left out.

    Raises:
        ValueError: no bin holds a detection, or none reaches `min_count`.

    Source: Naeini, Cooper and Hauskrecht 2015.
    """
    return _known(class_mce(bins.pooled(), min_count=min_count)[0], _too_few("bin", min_count))


def class_ace(bins: ReliabilityBins) -> NDArray[np.float64]:
    """Return the average calibration error of each class, (num_classes,) in [0, 1]. NaN without a detection.

        ACE_c = mean over bins that hold a detection of |confidence_cb - accuracy_cb|

    Every filled bin weighs the same. Over `equal_mass_bins` it equals `class_ccece` up to ties.

    Source: Neumann, Zisserman and Vedaldi 2018.
    """
    gaps = _gaps(bins)
    num = (~np.isnan(gaps)).sum(axis=1)
    return np.divide(np.nansum(gaps, axis=1), num, out=np.full(num.shape, np.nan), where=num > 0)


def ace(bins: ReliabilityBins) -> float:
    """Return the average calibration error over the bins of all classes together, in [0, 1].

        ACE = mean over bins that hold a detection of |confidence_b - accuracy_b|

    It equals netcal's `ACE`, except for scores on an edge (see `ece`). The "adaptive calibration error" of Nixon et al.
    has the same letters, but bins of equal mass. See `adaptive_ece`, and `classwise_ece(equal_mass=True)` for vectors.

    Raises:
        ValueError: there is no detection.

    Source: Neumann, Zisserman and Vedaldi 2018.
    """
    return _known(class_ace(bins.pooled())[0], "no detection")


def class_rmsce(bins: ReliabilityBins, *, debiased: bool = False) -> NDArray[np.float64]:
    """Return the root mean square calibration error of each class, (num_classes,) in [0, 1]. NaN without a detection.

        RMSCE_c = sqrt(sum_b num_cb / num_c * (confidence_cb - accuracy_cb)^2)

    Args:
        bins: counts of shape (num_classes, num_bins).
        debiased: subtract from each square the variance of the bin's accuracy, accuracy (1 - accuracy) / (num_cb - 1).
            Bins with less than two detections give 0, and so does a negative sum.

    Source: Kumar, Liang and Ma 2019 (arXiv 1909.10155). Bins with less than two detections follow their code.
    """
    total = bins.num.sum(axis=1)
    squares = np.nan_to_num(_gaps(bins)) ** 2
    if debiased:
        accuracy = np.nan_to_num(bins.accuracy())
        is_enough = bins.num >= 2
        variance = accuracy * (1 - accuracy) / np.where(is_enough, bins.num - 1, 1)
        squares = np.where(is_enough, squares - variance, 0.0)
    means = np.divide((bins.num * squares).sum(axis=1), total, out=np.full(total.shape, np.nan), where=total > 0)
    return np.sqrt(np.maximum(means, 0.0))


def rmsce(bins: ReliabilityBins, *, debiased: bool = False) -> float:
    """Return the root mean square calibration error over the detections of all classes, in [0, 1].

        RMSCE = sqrt(sum_b num_b / num * (confidence_b - accuracy_b)^2)

    It equals torchmetrics' `norm="l2"`, except for scores on an edge (see `ece`). The debiased square is unbiased; no
    absolute error can be. See `class_rmsce`.

    Raises:
        ValueError: there is no detection.

    Source: Kumar, Liang and Ma 2019 (arXiv 1909.10155).
    """
    return _known(class_rmsce(bins.pooled(), debiased=debiased)[0], "no detection")


def nll(
    probabilities: NDArray[np.floating], is_correct: NDArray[np.bool_], weights: NDArray[np.float64] | None = None
) -> float:
    """Return the weighted mean negative log likelihood of the outcomes, >= 0, natural logarithm.

        -sum_i w_i (y_i log p_i + (1 - y_i) log(1 - p_i)) / sum_i w_i,   p clipped to [PROBABILITY_FLOOR, 1 - floor]

    Raises:
        ValueError: there is no detection, shapes do not match, or a probability is outside [0, 1].

    Source: Good 1952. It equals scikit-learn's `log_loss` except for the clipping.
    """
    scores, outcomes, rows = checked_rows(probabilities, is_correct, weights)
    return _mean(pointwise_nll(scores, outcomes), rows)


def pointwise_nll(probabilities: NDArray[np.floating], is_correct: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the unweighted part of each detection in `nll`, (N,)."""
    clipped = np.clip(np.asarray(probabilities, dtype=np.float64), PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    return -np.log(np.where(is_correct, clipped, 1 - clipped))


def brier(
    probabilities: NDArray[np.floating], is_correct: NDArray[np.bool_], weights: NDArray[np.float64] | None = None
) -> float:
    """Return the weighted mean squared difference of probability and outcome, in [0, 1].

        sum_i w_i (p_i - y_i)^2 / sum_i w_i

    Raises:
        ValueError: there is no detection, shapes do not match, or a probability is outside [0, 1].

    Source: Brier 1950. It equals scikit-learn's `brier_score_loss`.
    """
    scores, outcomes, rows = checked_rows(probabilities, is_correct, weights)
    return _mean((scores - outcomes) ** 2, rows)


def effective_count(detections: Detections) -> NDArray[np.float64]:
    """Return the effective number of scored detections per class, (num_classes,): (sum w)^2 / sum w^2; 0 without any.

    Source: Kish 1965.
    """
    scored = detections.scored()
    sums = np.bincount(scored.class_indices, scored.weights, scored.num_classes)
    squares = np.bincount(scored.class_indices, scored.weights**2, scored.num_classes)
    return np.divide(sums**2, squares, out=np.zeros(scored.num_classes), where=squares > 0)


def credible_interval(
    accuracy: NDArray[np.float64], num: NDArray[np.float64], *, level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the central credible interval of an accuracy under Jeffreys' prior Beta(1/2, 1/2).

    Args:
        accuracy: observed shares of correct detections. NaN gives NaN.
        num: effective numbers of detections.
        level: posterior probability of the interval.

    Returns:
        Lower and upper ends. The lower end is 0 if none was correct; the upper end is 1 if all were.

    Source: Brown, Cai and DasGupta 2001.
    """
    num_correct = accuracy * num
    num_wrong = num - num_correct
    tail = (1 - level) / 2
    low = betaincinv(num_correct + 0.5, num_wrong + 0.5, tail)
    high = betaincinv(num_correct + 0.5, num_wrong + 0.5, 1 - tail)
    return np.where(accuracy == 0, 0.0, low), np.where(accuracy == 1, 1.0, high)


def group_masks(frequency_groups: NDArray[np.str_]) -> Mapping[str, NDArray[np.bool_]]:
    """Return masks over classes, (num_classes,): "all", and each of "r", "c", "f" that has a class."""
    groups = {"all": np.ones(len(frequency_groups), dtype=bool)}
    groups |= {group.value: frequency_groups == group for group in FrequencyGroup}
    return {name: mask for name, mask in groups.items() if mask.any()}


def _counted(bins: ReliabilityBins, min_count: float) -> NDArray[np.bool_]:
    num = bins.num.sum(axis=1)
    counted = (num >= min_count) & (num > 0)
    if not counted.any():
        raise ValueError(_too_few("class", min_count))
    return counted


def _too_few(what: str, min_count: float) -> str:
    return f"no {what} has " + (f"at least {min_count:g} detections" if min_count > _ANY else "a detection")


def _gaps(bins: ReliabilityBins) -> NDArray[np.float64]:
    """Return |confidence - accuracy| per class and bin. An empty bin gives NaN."""
    return np.abs(bins.confidence() - bins.accuracy())


def _known(figure: np.float64, complaint: str) -> float:
    if np.isnan(figure):
        raise ValueError(complaint)
    return float(figure)


def _mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    total = weights.sum()
    if total == 0:
        raise ValueError("no detection")
    return float(weights @ values / total)
