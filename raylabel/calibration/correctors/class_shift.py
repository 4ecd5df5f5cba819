"""Shift of each class in log odds, shrunk to the shift of its frequency group. Fewer detections are shrunk more."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

_GROUP_DEVIATION = 0.3
"""Prior standard deviation of the group shifts. It is fixed, because three groups are too few to fit it."""

_MAX_DEVIATION = 2.0
_NUM_SWEEPS = 30


@dataclass(frozen=True)
class ClassShift:
    """Shift of each class in log odds.

        shift_class ~ N(shift_group, deviation^2),   shift_group ~ N(0, 0.3^2)

    Attributes:
        of_class: (num_classes,) most likely shift. A class without a detection has the shift of its group.
        error: (num_classes,) posterior standard deviation of class shift - group shift.
        deviation: fitted standard deviation between the classes of a group.
        num_effective: (num_classes,) effective number of detections per class.
    """

    of_class: NDArray[np.float64]
    error: NDArray[np.float64]
    deviation: float
    num_effective: NDArray[np.float64]

    @staticmethod
    def none(frequency_groups: NDArray[np.str_]) -> "ClassShift":
        """Return shifts of 0 for every class, fitted on no detection."""
        num_classes = len(frequency_groups)
        return ClassShift(np.zeros(num_classes), np.zeros(num_classes), 0.0, np.zeros(num_classes))

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain numbers and lists."""
        return {
            "of_class": self.of_class.tolist(),
            "error": self.error.tolist(),
            "deviation": self.deviation,
            "num_effective": self.num_effective.tolist(),
        }

    @staticmethod
    def from_json(content: dict[str, Any]) -> "ClassShift":
        """Rebuild the shifts from the output of `to_json`."""
        of_class, error, num = (
            np.asarray(content[name], np.float64) for name in ("of_class", "error", "num_effective")
        )
        return ClassShift(of_class, error, float(content["deviation"]), num)


def fit_class_shift(
    log_odds: NDArray[np.float64],
    class_indices: NDArray[np.integer],
    is_correct: NDArray[np.bool_],
    weights: NDArray[np.float64],
    *,
    frequency_groups: NDArray[np.str_],
) -> ClassShift:
    """Find the posterior mode of the shifts. The deviation comes from expectation-maximisation (Laplace).

    Args:
        log_odds: (N,) log odds before the shift.
        class_indices: (N,) predicted classes.
        is_correct: (N,) outcomes.
        weights: (N,) > 0; their sum is the effective number of detections.
        frequency_groups: (num_classes,) "r", "c" or "f".
    """
    num_classes = len(frequency_groups)
    _, group_of = np.unique(frequency_groups, return_inverse=True)
    group_shift = np.zeros(group_of.max() + 1)
    offset, deviation = np.zeros(num_classes), 0.3
    num = np.bincount(class_indices, weights, num_classes).astype(np.float64)
    error = np.full(num_classes, deviation)
    for _ in range(_NUM_SWEEPS):
        gradient, curvature = _slopes(log_odds, class_indices, is_correct, weights, offset + group_shift[group_of])
        of_group = np.bincount(group_of, gradient), np.bincount(group_of, curvature)
        group_shift += (of_group[0] - group_shift / _GROUP_DEVIATION**2) / (of_group[1] + 1 / _GROUP_DEVIATION**2)
        gradient, curvature = _slopes(log_odds, class_indices, is_correct, weights, offset + group_shift[group_of])
        precision = curvature + 1 / deviation**2
        offset += (gradient - offset / deviation**2) / precision
        error = 1 / np.sqrt(precision)
        seen = num > 0
        deviation = float(np.clip(np.sqrt((offset[seen] ** 2 + error[seen] ** 2).mean()), 1e-3, _MAX_DEVIATION))
    return ClassShift(offset + group_shift[group_of], error, deviation, num)


def _slopes(
    log_odds: NDArray[np.float64],
    class_indices: NDArray[np.integer],
    is_correct: NDArray[np.bool_],
    weights: NDArray[np.float64],
    shift: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the first and the negative second derivative of the log likelihood with respect to each class's shift."""
    probability = expit(log_odds + shift[class_indices])
    gradient = np.bincount(class_indices, weights * (is_correct - probability), len(shift))
    curvature = np.bincount(class_indices, weights * probability * (1 - probability), len(shift))
    return gradient.astype(np.float64), curvature.astype(np.float64)
