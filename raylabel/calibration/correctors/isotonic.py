"""The correctors `isotonic` (one rising curve for all classes) and `isotonic_per_class` (one curve per class)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from raylabel.calibration.correctors.base import FitContext, require_classes
from raylabel.calibration.correctors.curves import Curves, curves_through
from raylabel.calibration.detections import Detections


@dataclass(frozen=True)
class IsotonicCorrector:
    """Centred isotonic regression of the outcome on the score, all classes together.

    Isotonic regression gives steps, and steps tie scores. Here each step becomes one point at the mean score of its
    detections. The curve is linear between the points.

    Attributes:
        curves: one curve.

    Source: Zadrozny and Elkan 2002; centred: Oron and Flournoy 2017 (arXiv 1701.05964).
    """

    curves: Curves
    kind: ClassVar[str] = "isotonic"
    uses_pool: ClassVar[bool] = False
    holds_back: ClassVar[bool] = False
    is_eligible: ClassVar[bool] = True
    features: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def fit(cls, detections: Detections, context: FitContext) -> "IsotonicCorrector":
        """Fit to the scored detections, by weight.

        Values stay 1 / (n + 2) away from 0 and 1, with n the effective number of detections. Without any detection the
        curve is the identity.
        """
        return cls(centred_isotonic(detections.scored()))

    def __call__(self, detections: Detections) -> NDArray[np.float64]:
        return self.curves(np.zeros(len(detections), dtype=np.int64), detections.raw_scores)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "knots": self.curves.knots.tolist(), "values": self.curves.values[0].tolist()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "IsotonicCorrector":
        """Rebuild the corrector from the output of `to_json`."""
        values = np.asarray(content["values"], dtype=np.float64)
        return cls(Curves(np.asarray(content["knots"], dtype=np.float64), values[None, :]))


def centred_isotonic(scored: Detections) -> Curves:
    """Fit one curve through the steps of isotonic regression. See `IsotonicCorrector`."""
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


@dataclass(frozen=True)
class ClassIsotonicCorrector:
    """Centred isotonic regression of the outcome on the score, per class.

    It takes few samples at face value: one wrong detection moves its class to 1/3 and below. It is common practice, and
    does harm on a long tail.

    Attributes:
        num_classes: number of classes in the fit.
        overall: the curve of all classes together. Classes without a detection use it.
        of_class: class index -> curve, for classes with a detection.

    Source: Zadrozny and Elkan 2002, one-against-rest.
    """

    num_classes: int
    overall: Curves
    of_class: Mapping[int, Curves]
    kind: ClassVar[str] = "isotonic_per_class"
    uses_pool: ClassVar[bool] = False
    holds_back: ClassVar[bool] = False
    is_eligible: ClassVar[bool] = False
    features: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def fit(cls, detections: Detections, context: FitContext) -> "ClassIsotonicCorrector":
        """Fit to the scored detections, by weight.

        Values of a class stay 1 / (n + 2) away from 0 and 1, with n its effective number of detections. Without any
        detection every curve is the identity.
        """
        scored = detections.scored()
        curves = {int(index): centred_isotonic(scored.subset(rows)) for index, rows in _rows_by_class(scored)}
        return cls(scored.num_classes, centred_isotonic(scored), curves)

    def __call__(self, detections: Detections) -> NDArray[np.float64]:
        require_classes(detections, self.num_classes)
        scores = np.empty(len(detections))
        for index, rows in _rows_by_class(detections):
            curve = self.of_class.get(index, self.overall)
            scores[rows] = curve(np.zeros(len(rows), dtype=np.int64), detections.raw_scores[rows])
        return scores

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "num_classes": self.num_classes,
            "overall": _curve_to_json(self.overall),
            "of_class": {str(index): _curve_to_json(curve) for index, curve in self.of_class.items()},
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "ClassIsotonicCorrector":
        """Rebuild the corrector from the output of `to_json`."""
        curves = {int(index): _curve_from_json(curve) for index, curve in content["of_class"].items()}
        return cls(int(content["num_classes"]), _curve_from_json(content["overall"]), curves)


def _rows_by_class(detections: Detections) -> list[tuple[int, NDArray[np.int64]]]:
    """Return each class that occurs, with the rows of its detections."""
    order = np.argsort(detections.class_indices, kind="stable")
    classes, starts = np.unique(detections.class_indices[order], return_index=True)
    return list(zip(classes.tolist(), np.split(order, starts[1:]), strict=True)) if len(order) else []


def _curve_to_json(curve: Curves) -> dict[str, list[float]]:
    return {"knots": curve.knots.tolist(), "values": curve.values[0].tolist()}


def _curve_from_json(content: dict[str, Any]) -> Curves:
    return Curves(np.asarray(content["knots"], np.float64), np.asarray(content["values"], np.float64)[None, :])
