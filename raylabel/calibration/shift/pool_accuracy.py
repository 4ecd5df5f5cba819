"""Accuracy of a pool's detections per class, estimated from their scores alone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from raylabel.calibration.bins import ReliabilityBins, bin_of
from raylabel.calibration.detections import Detections
from raylabel.calibration.shift.image_counts import ImageCounts, design_effect, equal_shares

PRIOR_COUNT = 2.0
"""Number of detections that the accuracy in the calibration split is worth as prior of that in the pool."""

_MASS_GRID = np.logspace(0, 4, 17)
_NUM_DRAWS = 100
_NUM_ACCURACIES = 100
_DESIGN_BINS = 5
_MAX_GROUPS = 20
_PER_GROUP = 10
_TINY = 1e-12
_MAX_STEPS = 2000
_TOLERANCE = 1e-7


@dataclass(frozen=True, kw_only=True)
class PoolAccuracy:
    """Accuracy of each class's detections in a pool, (num_classes,). NaN for a class without a detection in the pool.

    Attributes:
        accuracy: estimated share of correct detections.
        low: lower end of the 95% interval.
        high: upper end of the 95% interval.
    """

    accuracy: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def estimate_pool_accuracy(detections: Detections, pool_histogram: ReliabilityBins, *, seed: int = 0) -> PoolAccuracy:
    """Estimate the accuracy of each class in a pool by expectation maximisation (EM).

    For each class, the pool's histogram h over (joined) confidence bins b is a mixture of right and wrong detections.
    Calibration gives the shapes f1 and f0 of their scores. A prior shift changes the shares, not the shapes:

        h_b ~ accuracy * f1_b + (1 - accuracy) * f0_b

    EM finds the likeliest accuracy, with `PRIOR_COUNT` detections of the calibration split's accuracy added. The shapes
    of a class are shrunk to those of all classes. More similar classes are shrunk more (Dirichlet-multinomial). A class
    unseen in calibration has the shapes and the prior of all classes.

    The interval covers the uncertainty of the shapes and of the pool's histogram. Shapes are drawn by the Bayesian
    bootstrap over images: a weight of Exp(1) per image, plus gammas for the part that comes from the other classes.
    Each draw gives a posterior over a grid of accuracies. Drawing images respects the dependence within an image. The
    pool's counts are divided by the design effect of the calibration split.

    The estimate is valid under a prior shift. If the pool's images look different, the shapes change too, and it is not
    valid.

    Args:
        detections: detections of the calibration split with known outcomes. Ignored detections do not count.
        pool_histogram: histogram of the pool's raw scores. Only `num` counts.
        seed: seed of the draws.

    Source: Saerens, Latinne and Decaestecker 2002, on binned scores; Rubin 1981 for the bootstrap. Shrinkage and
    interval are ours.
    """
    num_bins, rng = pool_histogram.num_bins, np.random.default_rng(seed)
    scored = detections.scored()
    _, images = np.unique(scored.image_indices, return_inverse=True)
    num_images = int(images.max(initial=-1)) + 1
    weights = scored.weights * _effective_share(scored)
    coarse = ImageCounts.from_detections(scored, num_images=num_images, num_bins=_DESIGN_BINS)
    fine_bins, is_right = bin_of(scored.raw_scores, num_bins), scored.is_correct
    groups = _join_bins(
        *(np.bincount(fine_bins[rows], weights[rows], num_bins).astype(np.float64) for rows in (is_right, ~is_right))
    )
    num_groups = int(groups.max()) + 1
    pool_counts = pool_histogram.num @ np.eye(num_groups)[groups] / design_effect(coarse)
    shape = (scored.num_classes, num_groups)
    cells = scored.class_indices.astype(np.int64) * num_groups + groups[fine_bins]

    def count(rows: NDArray[np.bool_], image_weights: NDArray[np.float64]) -> NDArray[np.float64]:
        values = weights[rows] * image_weights[images[rows]]
        return np.bincount(cells[rows], values, shape[0] * shape[1]).astype(np.float64).reshape(shape)

    once = np.ones(num_images)
    num_correct, num_wrong = count(is_right, once), count(~is_right, once)
    masses = _likeliest_mass(num_correct), _likeliest_mass(num_wrong)
    prior = _prior(num_correct.sum(axis=1), num_wrong.sum(axis=1))
    right, wrong = (
        _normalised(mass * _overall(num) + num) for mass, num in zip(masses, (num_correct, num_wrong), strict=True)
    )
    has_any = pool_counts.sum(axis=1) > 0
    accuracy = np.where(has_any, _expectation_maximisation(pool_counts, right, wrong, prior), np.nan)
    posterior = np.zeros((shape[0], _NUM_ACCURACIES))
    for _ in range(_NUM_DRAWS):
        image_weights = rng.standard_exponential(num_images)
        drawn_right, drawn_wrong = (
            _normalised(rng.standard_gamma(mass * _overall(num), shape) + num + _TINY)
            for mass, num in zip(masses, (count(is_right, image_weights), count(~is_right, image_weights)), strict=True)
        )
        posterior += _posterior(pool_counts, drawn_right, drawn_wrong, prior)
    cumulated = posterior.cumsum(axis=1) / _NUM_DRAWS
    low = (cumulated < 0.025).sum(axis=1) / _NUM_ACCURACIES
    high = np.minimum((cumulated < 0.975).sum(axis=1) + 1, _NUM_ACCURACIES) / _NUM_ACCURACIES
    return PoolAccuracy(
        accuracy=accuracy,
        low=np.where(has_any, np.fmin(low, accuracy), np.nan),
        high=np.where(has_any, np.fmax(high, accuracy), np.nan),
    )


def _join_bins(right: NDArray[np.float64], wrong: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the group of each bin, (num_bins,). Groups have equal shares, and right and wrong ones count half each.

    The number of groups gives each about `_PER_GROUP` right and wrong detections. Shapes over more groups have holes,
    and a hole is too strong evidence.
    """
    num_groups = int(np.clip(min(right.sum(), wrong.sum()) / _PER_GROUP, 2, _MAX_GROUPS))
    return equal_shares(right / max(right.sum(), 1.0) + wrong / max(wrong.sum(), 1.0), num_groups)


def _normalised(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    return counts / counts.sum(axis=1, keepdims=True)


def _overall(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the shape of all classes together, (num_bins,), with one detection spread over all bins."""
    return (counts.sum(axis=0) + 1 / counts.shape[1]) / (counts.sum() + 1)


def _likeliest_mass(counts: NDArray[np.float64]) -> float:
    """Return the number of detections that the overall shape is worth as prior of a class, by marginal likelihood."""
    overall, filled = _overall(counts), counts[counts.sum(axis=1) > 0]

    def log_likelihood(mass: float) -> float:
        total = gammaln(mass) - gammaln(mass + filled.sum(axis=1))
        return float(total.sum() + (gammaln(mass * overall + filled) - gammaln(mass * overall)).sum())

    return float(max(_MASS_GRID[::-1], key=log_likelihood))


def _effective_share(scored: Detections) -> float:
    """Return Kish's effective number divided by the sum of weights, over all classes."""
    squares = float((scored.weights**2).sum())
    return float(scored.weights.sum()) / squares if squares > 0 else 1.0


def _prior(num_correct: NDArray[np.float64], num_wrong: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each class's accuracy in calibration, with `PRIOR_COUNT` detections of the overall accuracy added.

    Without any detection it is 1/2.
    """
    overall = (num_correct.sum() + 0.5) / (num_correct.sum() + num_wrong.sum() + 1)
    return (num_correct + PRIOR_COUNT * overall) / (num_correct + num_wrong + PRIOR_COUNT)


def _expectation_maximisation(
    counts: NDArray[np.float64], right: NDArray[np.float64], wrong: NDArray[np.float64], prior: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Find the likeliest accuracy of each class, (num_classes,)."""
    accuracy = prior
    for _ in range(_MAX_STEPS):
        from_right = accuracy[:, None] * right
        responsibility = from_right / (from_right + (1 - accuracy)[:, None] * wrong)
        after = ((counts * responsibility).sum(axis=1) + PRIOR_COUNT * prior) / (counts.sum(axis=1) + PRIOR_COUNT)
        change, accuracy = float(np.abs(after - accuracy).max(initial=0)), after
        if change < _TOLERANCE:
            break
    return accuracy


def _posterior(
    counts: NDArray[np.float64], right: NDArray[np.float64], wrong: NDArray[np.float64], prior: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the posterior of each class's accuracy over a grid, (num_classes, _NUM_ACCURACIES). Rows sum up to 1."""
    grid = (np.arange(_NUM_ACCURACIES) + 0.5) / _NUM_ACCURACIES
    log_posterior = PRIOR_COUNT * (prior[:, None] * np.log(grid) + (1 - prior[:, None]) * np.log1p(-grid))
    classes, bins = np.nonzero(counts)
    steps = np.log(grid[:, None] * right[classes, bins] + (1 - grid[:, None]) * wrong[classes, bins])
    starts = np.flatnonzero(np.diff(classes, prepend=-1))
    if len(classes):
        log_posterior[classes[starts]] += np.add.reduceat(steps * counts[classes, bins], starts, axis=1).T
    return _normalised(np.exp(log_posterior - log_posterior.max(axis=1, keepdims=True)))
