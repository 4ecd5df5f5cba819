"""Checks of the arrays that a metric is given, one row a detection."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

_SLACK = 1e-6
"""Probabilities may miss [0, 1] by this much, as single precision does."""


def checked_rows(
    scores: ArrayLike, is_correct: ArrayLike, weights: ArrayLike | None, *, are_probabilities: bool = True
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Scores, outcomes and weights as arrays of shape (N,), weights of 1 where None.

    Raises:
        ValueError: another shape; NaN or infinity; a probability outside [0, 1]; an outcome that is neither right (1,
            True) nor wrong (0, False), such as the number of an ignored detection; a negative weight.
    """
    checked = np.asarray(scores, dtype=np.float64)
    if checked.ndim != 1:
        raise ValueError(f"scores must have shape (N,), got {checked.shape}")
    check_finite(checked, "scores")
    if are_probabilities and len(checked) and (checked.min() < -_SLACK or checked.max() > 1 + _SLACK):
        raise ValueError(f"scores must be in [0, 1], got {checked.min():g} to {checked.max():g}")
    outcomes = np.asarray(is_correct)
    check_length(outcomes, "is_correct", len(checked))
    if outcomes.dtype != bool:
        if not ((outcomes == 0) | (outcomes == 1)).all():
            raise ValueError("is_correct must hold only 0 or 1; leave ignored detections out (`Detections.scored()`)")
        outcomes = outcomes == 1
    return checked, outcomes, checked_weights(weights, len(checked))


def checked_weights(weights: ArrayLike | None, num: int) -> NDArray[np.float64]:
    """Weights of shape (num,), ones where None.

    Raises:
        ValueError: another shape, a negative weight or one that is not finite.
    """
    if weights is None:
        return np.ones(num)
    checked = np.asarray(weights, dtype=np.float64)
    check_length(checked, "weights", num)
    check_finite(checked, "weights")
    if num and checked.min() < 0:
        raise ValueError(f"weights must be >= 0, got {checked.min():g}")
    return checked


def check_length(values: NDArray, name: str, num: int) -> None:
    """Raise a ValueError unless `values` has shape (num,)."""
    if values.shape != (num,):
        raise ValueError(f"{name} must have shape {(num,)}, a value for each score, got {values.shape}")


def check_finite(values: NDArray[np.floating], name: str) -> None:
    """Raise a ValueError at NaN or infinity."""
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got {values[~np.isfinite(values)][0]} among them")
