"""Drift: comparison of a pool's detections with those of the calibration split, class by class."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.special import betainc, betaincinv, fdtrc, fdtri

from raylabel.calibration.shift.image_counts import ImageCounts, equal_shares, residual_products
from raylabel.calibration.shift.pool_accuracy import PoolAccuracy
from raylabel.schema import DRIFT, nullable

FALSE_ALARM_RATE = 0.05
"""Chance that a report names any class if nothing has changed."""

MIN_PSI = 0.1
"""Smallest population stability index that counts as a change, for any number of detections. It is the usual rule."""

MIN_RATE_RATIO = 1.25
"""Smallest rate ratio (or its inverse) that counts as a change."""

_MAX_BINS = 10
_IMAGES_PER_BIN = 5


@dataclass(frozen=True, kw_only=True)
class DriftReport:
    """Comparison of a pool with the calibration split. Each figure is (num_classes,); NaN if it is unavailable.

    Attributes:
        calibration: counts of the calibration split.
        pool: counts of the pool.
        psi: population stability index of the score histograms. Each bin holds an equal share of both sets together.
        psi_null: 95% point of `psi` if nothing has changed (for this class alone).
        psi_p_value: chance of such a `psi` if nothing has changed.
        rate_ratio: detections per image in the pool / detections per image in the calibration split. Infinite if the
            split has none.
        rate_ratio_low: lower end of the 95% interval of `rate_ratio`.
        rate_ratio_high: upper end of the interval.
        rate_p_value: chance of such a ratio, or one further from 1, if nothing has changed.
        scores_drifted: (num_classes,) bool. `psi` is significant and at least `MIN_PSI`.
        rate_drifted: (num_classes,) bool. `rate_ratio` is significant, and it or its inverse is at least
            `MIN_RATE_RATIO`.
    """

    calibration: ImageCounts
    pool: ImageCounts
    psi: NDArray[np.float64]
    psi_null: NDArray[np.float64]
    psi_p_value: NDArray[np.float64]
    rate_ratio: NDArray[np.float64]
    rate_ratio_low: NDArray[np.float64]
    rate_ratio_high: NDArray[np.float64]
    rate_p_value: NDArray[np.float64]
    scores_drifted: NDArray[np.bool_]
    rate_drifted: NDArray[np.bool_]

    @property
    def drifted_classes(self) -> NDArray[np.int64]:
        """Indices of the classes that drifted, smallest p value first."""
        p_values = np.fmin(
            np.where(self.scores_drifted, self.psi_p_value, np.nan),
            np.where(self.rate_drifted, self.rate_p_value, np.nan),
        )
        found = np.flatnonzero(self.scores_drifted | self.rate_drifted)
        return found[np.argsort(p_values[found], kind="stable")]

    def describe(self, class_index: int) -> str:
        """Describe the change of a drifted class in a few words."""
        words = []
        if self.rate_drifted[class_index]:
            ratio = self.rate_ratio[class_index]
            words.append("not in the calibration split" if np.isinf(ratio) else f"{ratio:.2g} times as often")
        if self.scores_drifted[class_index]:
            means = [_mean_score(counts.num[class_index]) for counts in (self.calibration, self.pool)]
            words.append(f"scores {means[0]:.2f} -> {means[1]:.2f} in the mean, PSI {self.psi[class_index]:.2f}")
        return ", ".join(words)

    def to_table(self, accuracy: PoolAccuracy) -> pa.Table:
        """Return a table of `schema.DRIFT` with one row per class. It includes the estimated accuracy in the pool."""
        num_pool = self.pool.num_detections
        return pa.table(
            {
                "class_index": np.arange(len(self.psi), dtype=np.int32),
                "num_calibration": self.calibration.num_detections.astype(np.int64),
                "num_pool": num_pool.astype(np.int64),
                "num_images_calibration": self.calibration.num_images_with.astype(np.int64),
                "num_images_pool": self.pool.num_images_with.astype(np.int64),
                "psi": nullable(self.psi),
                "psi_null": nullable(self.psi_null),
                "psi_p_value": nullable(self.psi_p_value),
                "scores_drifted": self.scores_drifted,
                "rate_ratio": nullable(self.rate_ratio),
                "rate_ratio_low": nullable(self.rate_ratio_low),
                "rate_ratio_high": nullable(self.rate_ratio_high),
                "rate_p_value": nullable(self.rate_p_value),
                "rate_drifted": self.rate_drifted,
                "accuracy": nullable(accuracy.accuracy),
                "accuracy_low": nullable(accuracy.low),
                "accuracy_high": nullable(accuracy.high),
            },
            schema=DRIFT,
        )

    def summary(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Return plain numbers for an artifact, and the names of all drifted classes, smallest p value first."""
        return {
            "num_classes": len(self.psi),
            "num_tests": int((~np.isnan(self.psi_p_value)).sum() + (~np.isnan(self.rate_p_value)).sum()),
            "num_drifted": len(self.drifted_classes),
            "num_scores_drifted": int(self.scores_drifted.sum()),
            "num_rate_drifted": int(self.rate_drifted.sum()),
            "num_calibration_images": self.calibration.num_images,
            "num_pool_images": self.pool.num_images,
            "classes": [class_names[index] for index in self.drifted_classes],
        }

    def warning(self, class_names: Sequence[str], *, max_named: int = 5) -> str | None:
        """Return one line that names the drifted classes, or None if no class drifted."""
        classes = self.drifted_classes
        if not len(classes):
            return None
        named = "; ".join(f"{class_names[index]} ({self.describe(index)})" for index in classes[:max_named])
        more = f"; and {len(classes) - max_named} more" if len(classes) > max_named else ""
        return (
            f"the pool differs from the calibration split in {len(classes)} of {len(self.psi)} classes: {named}{more}"
        )


def measure_drift(calibration: ImageCounts, pool: ImageCounts) -> DriftReport:
    """Compare the scores and the frequency of each class in a pool with those of the calibration split.

    There are two tests per class. Both assume that images are drawn independently. Detections of one image may depend
    on each other in any way.

    - Scores: two histograms are compared. Each bin holds an equal share of both sets together. There are 2 to 10 bins,
      so that both sides have 5 images with the class per bin. Pearson's statistic is compared with the distribution
      that the scatter between images gives (second order of Rao and Scott). That is a scaled chi-square whose scale and
      degrees of freedom match the first two moments, and F for the number of images. The index has the same
      distribution up to terms of higher order, so `psi_null` is its 95% point.
    - Frequency: the share of the class's detections that lies in the pool. It is binomial if detections are independent
      (Przyborowski and Wilenski 1940). Counts are divided by variance / mean of the counts per image, if that ratio is
      above 1.

    Holm's method bounds the chance of a false alarm in the whole report by `FALSE_ALARM_RATE`, over all classes and
    both tests.

    Args:
        calibration: all detections of the split, including ignored ones, because nothing is ignored in the pool.
        pool: all detections of the pool, over the same number of bins.

    Raises:
        ValueError: the numbers of classes or bins differ.

    Source: population stability index: Yurdakul 2018, "Statistical properties of population stability index"; Rao and
    Scott 1981; Thomas and Rao 1987; Holm 1979.
    """
    if calibration.num.shape != pool.num.shape:
        raise ValueError(
            f"counts to compare must have the same shape, got {calibration.num.shape} and {pool.num.shape}"
        )
    num_classes = calibration.num_classes
    psi, psi_null, psi_p_value = (np.full(num_classes, np.nan) for _ in range(3))
    for index in range(num_classes):
        psi[index], psi_null[index], psi_p_value[index] = _compare_scores(calibration, pool, index)
    ratio, low, high, rate_p_value = _compare_rates(calibration, pool)
    is_proved = _holm(np.stack([psi_p_value, rate_p_value]), FALSE_ALARM_RATE)
    with np.errstate(divide="ignore"):
        is_far = np.abs(np.log(ratio)) >= np.log(MIN_RATE_RATIO)
    return DriftReport(
        calibration=calibration,
        pool=pool,
        psi=psi,
        psi_null=psi_null,
        psi_p_value=psi_p_value,
        rate_ratio=ratio,
        rate_ratio_low=low,
        rate_ratio_high=high,
        rate_p_value=rate_p_value,
        scores_drifted=is_proved[0] & (psi >= MIN_PSI),
        rate_drifted=is_proved[1] & is_far,
    )


def _compare_scores(calibration: ImageCounts, pool: ImageCounts, index: int) -> tuple[float, float, float]:
    """Return the index, its 95% point and its p value for one class. They are NaN with too few images."""
    num_images = int(calibration.num_images_with[index]), int(pool.num_images_with[index])
    groups = equal_shares(calibration.num[index] + pool.num[index], min(_MAX_BINS, min(num_images) // _IMAGES_PER_BIN))
    num_groups = int(groups.max()) + 1
    if num_groups < 2:
        return np.nan, np.nan, np.nan
    counts, scatter = [], np.zeros((num_groups, num_groups))
    for part, images in zip((calibration, pool), num_images, strict=True):
        num, products = part.joined(index, groups)
        counts.append(num)
        scatter += residual_products(num, products) * images / (images - 1)
    totals = [float(num.sum()) for num in counts]
    shares = (counts[0] + counts[1]) / sum(totals)
    variance_of_one = 1 / totals[0] + 1 / totals[1]
    difference = counts[0] / totals[0] - counts[1] / totals[1]
    statistic = float((difference**2 / shares).sum() / variance_of_one)
    # The statistic is a sum of chi-squares times this matrix's eigenvalues. They are 1 for independent detections.
    effects = scatter / sum(totals) / np.sqrt(np.outer(shares, shares))
    first, second = float(np.trace(effects)), float((effects**2).sum())
    freedom = first**2 / second
    scale = max(first, num_groups - 1.0) / freedom
    others = freedom * (sum(num_images) - 2)
    smoothed = [(num + 0.5) / (total + 0.5 * num_groups) for num, total in zip(counts, totals, strict=True)]
    psi = float(((smoothed[1] - smoothed[0]) * np.log(smoothed[1] / smoothed[0])).sum())
    psi_null = variance_of_one * scale * freedom * float(fdtri(freedom, others, 0.95))
    return psi, psi_null, float(fdtrc(freedom, others, statistic / (scale * freedom)))


def _compare_rates(calibration: ImageCounts, pool: ImageCounts) -> tuple[NDArray[np.float64], ...]:
    """Return rate ratio, interval and p value of each class. They are NaN for a class without any detection."""
    num_images = calibration.num_images + pool.num_images
    nothing = np.full(calibration.num_classes, np.nan)
    if not calibration.num_images or not pool.num_images:
        return nothing, nothing, nothing, nothing
    first, second = calibration.num_detections, pool.num_detections
    total = first + second
    has_any = total > 0
    mean = total / num_images
    squares = (calibration.products + pool.products).sum(axis=(1, 2))
    variance = (squares / num_images - mean**2) * num_images / max(1, num_images - 1)
    dispersion = np.maximum(np.divide(variance, mean, out=np.ones_like(mean), where=has_any), 1.0)
    share = calibration.num_images / num_images
    first, second = first / dispersion, second / dispersion
    at_least = _binomial_tail(first, second, share)
    at_most = _binomial_tail(second, first, 1 - share)
    p_value = np.minimum(2 * np.minimum(at_least, at_most), 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        per_image = calibration.num_images / pool.num_images
        ratio = second / first * per_image
        share_low = np.where(first > 0, betaincinv(first, second + 1, 0.025), 0.0)
        share_high = np.where(second > 0, betaincinv(first + 1, second, 0.975), 1.0)
        low, high = (1 / share_high - 1) * per_image, (1 / share_low - 1) * per_image
    return tuple(np.where(has_any, values, np.nan) for values in (ratio, low, high, p_value))


def _binomial_tail(successes: NDArray[np.float64], failures: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Return the chance of at least `successes` among all trials. Both counts may be fractions."""
    return np.where(successes > 0, betainc(np.maximum(successes, 1e-300), failures + 1, share), 1.0)


def _holm(p_values: NDArray[np.float64], level: float) -> NDArray[np.bool_]:
    """Return which hypotheses are rejected. The chance of any false rejection is at most `level`. NaN: no hypothesis.

    Source: Holm 1979.
    """
    flat = p_values.ravel()
    order = np.argsort(flat, kind="stable")
    num = int((~np.isnan(flat)).sum())
    passes = flat[order[:num]] <= level / np.arange(num, 0, -1)
    num_rejected = num if passes.all() else int(np.argmin(passes))
    rejected = np.zeros(len(flat), dtype=bool)
    rejected[order[:num_rejected]] = True
    return rejected.reshape(p_values.shape)


def _mean_score(num: NDArray[np.float64]) -> float:
    centres = (np.arange(len(num)) + 0.5) / len(num)
    return float(num @ centres / num.sum())
