"""The corrector `marginal`: the scores of each class sum up to its number of correct detections."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from raylabel.calibration.bins import ReliabilityBins
from raylabel.calibration.correctors.base import FitContext, logits, require_classes
from raylabel.calibration.detections import Detections
from raylabel.calibration.shift.pool_accuracy import PoolAccuracy, estimate_pool_accuracy

PRIOR_COUNT = 30.0
"""Number of detections that the prior of a class is worth. 0, 1, 3, 10, 30, 100 and infinity were tried on a real
detector. 30 and 100 gave the lowest cross-validated log loss, and 30 the lowest for rare classes."""

_SHIFT_BOUND = 30.0
_NUM_BISECTIONS = 60
_TAIL = 1.96


@dataclass(frozen=True)
class MarginalCorrector:
    """Multiplies the odds of each class by one factor, chosen so that its scores sum up to the true total.

        calibrated = sigmoid(logit(score) + shift_c),   sum over c's detections of calibrated = number correct of c

    Multiplying the score by true / predicted total would leave [0, 1] or tie scores at 1. Multiplying the odds is
    continuous and rises with the score. It is the correction for another class prior (Saerens et al. 2002).

    Attributes:
        shifts: (num_classes,) added to the logit. A class without a detection has the shift of all classes together.

    Source: Saerens, Latinne and Decaestecker 2002, "Adjusting the outputs of a classifier to new a priori
    probabilities"; the shrunken totals are ours.
    """

    shifts: NDArray[np.float64]
    kind: ClassVar[str] = "marginal"
    uses_pool: ClassVar[bool] = True
    holds_back: ClassVar[bool] = False
    is_eligible: ClassVar[bool] = True
    features: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def fit(
        cls, detections: Detections, context: FitContext, *, prior_count: float = PRIOR_COUNT
    ) -> "MarginalCorrector":
        """Match the weighted totals of the scored detections, or of the pool if `context.pool_histogram` is given.

        Few detections are shrunk. A class has n (effective) detections. `prior_count` detections are added to them,
        with the accuracy that the scores give after the shift of all classes. To all classes together, `prior_count`
        detections are added with the accuracy that the raw scores give. `prior_count` = 0 takes totals at face value.
        Without any detection the scores stay unchanged.

        The true totals of the pool are estimated from its scores (`pool_accuracy.estimate_pool_accuracy`). Calibrated
        scores are then right for the class priors of the pool. An estimate is worth
        n = accuracy * (1 - accuracy) / variance - 1 detections; the variance follows from its interval. `prior_count`
        detections are added with the accuracy that the shift of the calibration split gives. A class without a
        detection in the pool has the shift of the calibration split.
        """
        scored = detections.scored()
        shifts = _fit_shifts(
            scored.class_indices,
            logits(scored.raw_scores),
            scored.weights,
            num_correct=_sums(scored.class_indices, scored.weights * scored.is_correct, scored.num_classes),
            squares=_sums(scored.class_indices, scored.weights**2, scored.num_classes),
            prior_count=prior_count,
        )
        if context.pool_histogram is None or not len(scored):
            return cls(shifts)
        pool = estimate_pool_accuracy(detections, context.pool_histogram, seed=context.seed)
        return cls(_fit_pool_shifts(context.pool_histogram, pool, shifts, prior_count=prior_count))

    def __call__(self, detections: Detections) -> NDArray[np.float64]:
        require_classes(detections, len(self.shifts))
        return expit(logits(detections.raw_scores) + self.shifts[detections.class_indices])

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "shifts": self.shifts.tolist()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "MarginalCorrector":
        """Rebuild the corrector from the output of `to_json`."""
        return cls(np.asarray(content["shifts"], dtype=np.float64))


def _fit_shifts(
    classes: NDArray[np.integer],
    score_logits: NDArray[np.float64],
    weights: NDArray[np.float64],
    *,
    num_correct: NDArray[np.float64],
    squares: NDArray[np.float64],
    prior_count: float,
) -> NDArray[np.float64]:
    """Fit the shift of each class, (num_classes,).

    `num_correct` and `squares` have one value per class, the other arrays one per detection.
    """
    num_classes = len(num_correct)
    if not len(classes):
        return np.zeros(num_classes)
    everything = np.zeros(len(classes), dtype=np.int64)
    overall = _shifts_to(
        everything,
        score_logits,
        weights,
        _shrunken(
            num_correct.sum(keepdims=True),
            weights.sum(keepdims=True),
            squares.sum(keepdims=True),
            prior=np.atleast_1d(np.average(expit(score_logits), weights=weights)),
            prior_count=prior_count,
        ),
    )[0]
    num = _sums(classes, weights, num_classes)
    expected = _sums(classes, weights * expit(score_logits + overall), num_classes)
    prior = np.divide(expected, num, out=np.zeros(num_classes), where=num > 0)
    accuracy = _shrunken(num_correct, num, squares, prior=prior, prior_count=prior_count)
    return np.where(num > 0, _shifts_to(classes, score_logits, weights, accuracy), overall)


def _fit_pool_shifts(
    histogram: ReliabilityBins, pool: PoolAccuracy, shifts: NDArray[np.float64], *, prior_count: float
) -> NDArray[np.float64]:
    """Fit the shift of each class for the pool. `shifts` are the shifts of the calibration split."""
    classes, bins = np.nonzero(histogram.num)
    weights = histogram.num[classes, bins]
    score_logits = logits(histogram.sum_confidence[classes, bins] / weights)
    num = histogram.num.sum(axis=1)
    expected = _sums(classes, weights * expit(score_logits + shifts[classes]), len(num))
    accuracy, is_known = np.nan_to_num(pool.accuracy), num > 0
    variance = np.square(np.nan_to_num(pool.high - pool.low) / (2 * _TAIL))
    worth = np.divide(accuracy * (1 - accuracy), variance, out=np.zeros_like(num), where=variance > 0) - 1
    worth = np.where(is_known, np.maximum(worth, 0.0), 0.0)
    prior = np.divide(expected, num, out=np.zeros_like(num), where=is_known)
    total = np.maximum(worth + prior_count, np.finfo(float).tiny)
    wanted = np.where(worth + prior_count > 0, (worth * accuracy + prior_count * prior) / total, accuracy)
    return np.where(is_known, _shifts_to(classes, score_logits, weights, wanted), shifts)


def _shrunken(
    num_correct: NDArray[np.float64],
    num: NDArray[np.float64],
    squares: NDArray[np.float64],
    *,
    prior: NDArray[np.float64],
    prior_count: float,
) -> NDArray[np.float64]:
    """Return the accuracy after `prior_count` detections of the prior are added to the effective number.

    It is 0 where `num` is 0.
    """
    to_effective = np.divide(num, squares, out=np.zeros_like(num), where=squares > 0)
    return np.divide(
        num_correct * to_effective + prior_count * prior,
        num * to_effective + prior_count,
        out=np.zeros_like(num),
        where=num > 0,
    )


def _shifts_to(
    groups: NDArray[np.integer],
    score_logits: NDArray[np.float64],
    weights: NDArray[np.float64],
    mean: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Find the shift that gives the corrected scores of each group the wanted mean, by bisection in +-_SHIFT_BOUND."""
    low, high = np.full(len(mean), -_SHIFT_BOUND), np.full(len(mean), _SHIFT_BOUND)
    wanted = mean * _sums(groups, weights, len(mean))
    for _ in range(_NUM_BISECTIONS):
        middle = (low + high) / 2
        total = _sums(groups, weights * expit(score_logits + middle[groups]), len(mean))
        low, high = np.where(total < wanted, middle, low), np.where(total < wanted, high, middle)
    return (low + high) / 2


def _sums(groups: NDArray[np.integer], values: NDArray[np.float64], num_groups: int) -> NDArray[np.float64]:
    return np.bincount(groups, values, num_groups).astype(np.float64)
