"""Continuous, rising curves through fitted points, for the isotonic and hierarchical correctors."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

OWN_SHARE = 1e-3
"""Share of the raw score that is mixed into flat or clipped parts, because tied scores cost AP."""


@dataclass(frozen=True)
class Curves:
    """Piecewise linear curves from [0, 1] to [0, 1] that share their knots.

    Attributes:
        knots: (K,) rising positions from 0 to 1.
        values: (R, K) one rising curve per row.
    """

    knots: NDArray[np.float64]
    values: NDArray[np.float64]

    def __call__(self, rows: NDArray[np.integer], scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the value of curve `rows[i]` at `scores[i]`, (N,)."""
        left = np.clip(np.searchsorted(self.knots, scores, side="right") - 1, 0, len(self.knots) - 2)
        widths = np.maximum(np.diff(self.knots), np.finfo(float).tiny)
        share = (scores - self.knots[left]) / widths[left]
        low, high = self.values[rows, left], self.values[rows, left + 1]
        return np.clip(low + share * (high - low), 0.0, 1.0)


def curves_through(positions: NDArray[np.float64], values: NDArray[np.float64]) -> Curves:
    """Draw curves through points and continue them to 0 and 1.

    Below the first point a curve follows the line from (1, 1). Above the last point it follows the line from (0, 0).
    Both are clipped to [0, 1]. Thus the identity is continued as the identity, and an accuracy below (above) the
    confidence stays below (above) it. A thousandth of the score is mixed in, so that no part is flat.

    Args:
        positions: (P,) rising positions in [0, 1]. P = 0 gives the identity.
        values: (R, P) values in [0, 1], rising along each row.
    """
    if len(positions) == 0:
        return Curves(np.array([0.0, 1.0]), np.tile([0.0, 1.0], (len(values), 1)))
    first, last = positions[0], positions[-1]
    at_zero = np.maximum(1 - (1 - values[:, 0]) / (1 - first), 0.0) if first < 1 else values[:, 0]
    at_one = np.minimum(values[:, -1] / last, 1.0) if last > 0 else values[:, -1]
    knots = np.concatenate([[0.0], positions, [1.0]])
    through = np.column_stack([np.minimum(at_zero, values[:, 0]), values, np.maximum(at_one, values[:, -1])])
    return Curves(knots, (1 - OWN_SHARE) * through + OWN_SHARE * knots)


def rising(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rising sequence nearest to each row in weighted least squares (pool adjacent violators), (R, P)."""
    falling_rows = np.flatnonzero(np.any(np.diff(values, axis=1) < 0, axis=1))
    result = values.copy()
    for row in falling_rows:
        result[row] = isotonic_regression(values[row], weights=weights[row]).x
    return result
