"""The corrector `isotonic`: one rising curve for all classes."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from raylabel.calibration.corrector import FitContext
from raylabel.calibration.curves import Curves, curves_through
from raylabel.calibration.detections import Detections


@dataclass(frozen=True)
class IsotonicCorrector:
    """Centred isotonic regression of the outcome on the score, all classes together.

    Isotonic regression gives steps, and steps tie scores. Here each step is one point at the mean score of its
    detections, and the curve is linear between the points.

    Attributes:
        curves: one row.

    Source: Zadrozny and Elkan 2002; centred: Oron and Flournoy 2017 (arXiv 1701.05964).
    """

    curves: Curves
    kind: ClassVar[str] = "isotonic"

    @classmethod
    def fit(cls, detections: Detections, context: FitContext) -> "IsotonicCorrector":
        """Fit to the scored detections, by weight.

        Values stay 1 / (n + 2) from 0 and 1 (n: effective number of detections). Without any detection: the identity.
        """
        return cls(centred_isotonic(detections.scored()))

    def __call__(self, detections: Detections) -> NDArray[np.float64]:
        return self.curves(np.zeros(len(detections), dtype=np.int64), detections.raw_scores)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "knots": self.curves.knots.tolist(), "values": self.curves.values[0].tolist()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "IsotonicCorrector":
        """Read what `to_json` gave."""
        values = np.asarray(content["values"], dtype=np.float64)
        return cls(Curves(np.asarray(content["knots"], dtype=np.float64), values[None, :]))


def centred_isotonic(scored: Detections) -> Curves:
    """One curve through the steps of isotonic regression, as of `IsotonicCorrector`; of no detection, the identity."""
    if not len(scored):
        return curves_through(np.zeros(0), np.zeros((1, 0)))
    scores, places = np.unique(scored.raw_scores, return_inverse=True)
    weights = np.bincount(places, scored.weights)
    accuracy = np.bincount(places, scored.weights * scored.is_correct) / weights
    fitted = isotonic_regression(accuracy, weights=weights)
    starts = fitted.blocks[:-1]
    positions = np.add.reduceat(weights * scores, starts) / np.add.reduceat(weights, starts)
    margin = 1 / (scored.weights.sum() ** 2 / (scored.weights**2).sum() + 2)
    values = np.clip(fitted.x[starts], margin, 1 - margin)
    return curves_through(positions, values[None, :])
