"""Checks of the input arrays of a metric, with one row per detection."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

_SLACK = 1e-6
"""Probabilities may exceed [0, 1] by this amount, because single precision rounds."""


def checked_rows(
    scores: ArrayLike, is_correct: ArrayLike, weights: ArrayLike | None, *, are_probabilities: bool = True
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Return scores, outcomes and weights as arrays of shape (N,). Weights of None become 1.

    Raises:
        ValueError: a shape is wrong, a value is NaN or infinite, a probability is outside [0, 1], or a weight is
            negative. Or an outcome is neither 1 nor 0 (True nor False), such as that of an ignored detection.
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
    """Return weights of shape (num,). None becomes ones.

    Raises:
        ValueError: the shape is wrong, or a weight is negative or not finite.
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
        raise ValueError(f"{name} must have shape {(num,)}, one value per score, got {values.shape}")


def check_finite(values: NDArray[np.floating], name: str) -> None:
    """Raise a ValueError at NaN or infinity."""
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got {values[~np.isfinite(values)][0]} among them")
