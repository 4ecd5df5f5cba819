"""Accuracy of each class, with an interval that depends on the number of images."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, stdtrit

from raylabel.calibration.detections import Detections

LEVEL = 0.95
"""Coverage of the intervals."""
_SMALL = 1e-6


@dataclass(frozen=True, kw_only=True)
class ClassAccuracy:
    """Share of each class's detections that are correct, all fields (num_classes,) float64.

    Attributes:
        accuracy: estimate. NaN for a class without a scored detection.
        low, high: ends of the 95% interval of the accuracy on images of the same kind. NaN if `accuracy` is NaN.
        num_effective: number of independent detections that would give the same interval width. 0 without any.
    """

    accuracy: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    num_effective: NDArray[np.float64]


def scored_accuracy(detections: Detections) -> ClassAccuracy:
    """Return the weighted accuracy of the scored detections. See `clustered_accuracy` for the intervals.

    For weighted detections of a federated set, `verification.federated_accuracy` uses more information.
    """
    scored = detections.scored()
    keys = scored.image_indices * scored.num_classes + scored.class_indices
    pairs, places = np.unique(keys, return_inverse=True)
    return clustered_accuracy(
        class_indices=pairs % scored.num_classes,
        num=np.bincount(places, scored.weights, len(pairs)).astype(np.float64),
        num_correct=np.bincount(places, scored.weights * scored.is_correct, len(pairs)).astype(np.float64),
        num_scored=np.bincount(scored.class_indices, minlength=scored.num_classes).astype(np.float64),
    )


def clustered_accuracy(
    *,
    class_indices: NDArray[np.integer],
    num: NDArray[np.float64],
    num_correct: NDArray[np.float64],
    num_scored: NDArray[np.float64],
    variance: NDArray[np.float64] | float = 0.0,
) -> ClassAccuracy:
    """Compute accuracy from counts per image and class. Detections of one image depend on each other.

    The variance of the ratio A = sum k_i / sum d_i over the M images of a class is linearised,

        V = M / (M - 1) * sum_i (k_i - A d_i)^2 / (sum_i d_i)^2

    and `variance` / (sum_i d_i)^2 is added to V. The interval is the exact binomial interval of A (1 - A) / V
    detections. That number is multiplied by (t_D / t_M)^2, because V is itself uncertain (Student's t at D - 1 and
    M - 1 degrees of freedom). V is 0 if all or none are right, for example. Then the effective number of images is used
    instead (Kish's, because images have unequal numbers of detections).

    Args:
        class_indices: (P,) class of each (image, class) pair.
        num: (P,) weighted detections d of the pair, > 0.
        num_correct: (P,) correct detections k of the pair. They may be expectations.
        num_scored: (num_classes,) scored detections D. The effective number of a class is at most D.
        variance: (num_classes,) variance of sum k beyond that between images, if k are expectations.

    Source: Korn and Graubard 1998 (interval); Cochran 1977, section 6 (ratio).
    """
    num_classes = len(num_scored)

    def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(class_indices, values, num_classes).astype(np.float64)

    num_images = total(np.ones(len(num)))
    total_num, total_correct = total(num), total(num_correct)
    with np.errstate(divide="ignore", invalid="ignore"):
        accuracy = np.clip(total_correct / total_num, 0.0, 1.0)
        residuals = num_correct - accuracy[class_indices] * num
        between = total(residuals**2) * num_images / np.maximum(num_images - 1, 1)
        ratio_variance = (between + variance) / total_num**2
        images = total_num**2 / total(num**2)
        tail = (1 + LEVEL) / 2
        freedom = stdtrit(np.maximum(num_scored - 1, 1), tail) / stdtrit(np.maximum(num_images - 1, 1), tail)
        effective = np.where(
            ratio_variance > 1e-12, accuracy * (1 - accuracy) / ratio_variance * np.minimum(freedom, 1.0) ** 2, images
        )
    is_known = (total_num > 0) & (num_scored > 0)
    accuracy = np.where(is_known, accuracy, np.nan)
    effective = np.where(is_known, np.minimum(effective, num_scored), 0.0)
    low, high = exact_interval(accuracy, effective)
    return ClassAccuracy(accuracy=accuracy, low=low, high=high, num_effective=effective)


def exact_interval(
    accuracy: NDArray[np.float64], num: NDArray[np.float64], *, level: float = LEVEL
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the central interval that covers any true share with probability >= `level`.

    Args:
        accuracy: observed shares. NaN gives NaN.
        num: effective numbers of trials. They need not be whole.
        level: coverage in (0, 1).

    Returns:
        Lower and upper ends. An end within a millionth of 0 or 1 becomes 0 or 1.

    Source: Clopper and Pearson 1934.
    """
    tail = (1 - level) / 2
    num_correct = accuracy * num
    num_wrong = num - num_correct
    # At least _SMALL, because the inverse needs positive parameters. Towards 0 its value goes to the end of the range.
    low = betaincinv(np.maximum(num_correct, _SMALL), num_wrong + 1, tail)
    high = betaincinv(num_correct + 1, np.maximum(num_wrong, _SMALL), 1 - tail)
    return np.where(low < _SMALL, 0.0, low), np.where(high > 1 - _SMALL, 1.0, high)
