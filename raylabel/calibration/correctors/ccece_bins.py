"""The corrector `ccece_bins`: subtract the signed bias of each class and bin."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from raylabel.calibration.bins import ReliabilityBins
from raylabel.calibration.correctors.base import FitContext, require_classes
from raylabel.calibration.correctors.curves import Curves, curves_through, rising
from raylabel.calibration.detections import Detections

_EMPTY_WEIGHT = 1e-3
"""Weight of an empty cell when curves are made monotone. It is small, so that the cell yields to its neighbours."""


@dataclass(frozen=True)
class CellBiasCorrector:
    """Subtracts mean confidence - accuracy of each class and bin, linear between the bins, made monotone.

    It takes the few samples of a cell at face value, and this does harm. It stands for per-class histogram binning in
    comparisons.

    Attributes:
        curves: one row per class. The knots are the mean scores of the bins over all classes.

    Source: Porcher et al. 2024 (arXiv 2403.11675), per bin; histogram binning: Zadrozny and Elkan 2001.
    """

    curves: Curves
    kind: ClassVar[str] = "ccece_bins"
    uses_pool: ClassVar[bool] = False
    holds_back: ClassVar[bool] = False
    is_eligible: ClassVar[bool] = False
    features: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def fit(cls, detections: Detections, context: FitContext) -> "CellBiasCorrector":
        """Measure the weighted biases of the scored detections.

        An empty cell gets the bias of its class over all bins. A class without a detection gets the bias of all classes
        in the same bin. If that bin is empty for all classes, it gets the bias of all detections, or 0 without any.
        """
        bins = ReliabilityBins.from_detections(detections, context.num_bins)
        everything = bins.pooled()
        overall = _bias(everything.num.sum(), (everything.sum_confidence - everything.num_correct).sum(), 0.0)
        of_bin = _bias(everything.num, everything.sum_confidence - everything.num_correct, overall)
        num = bins.num.sum(axis=1, keepdims=True)
        of_class = _bias(num, (bins.sum_confidence - bins.num_correct).sum(axis=1, keepdims=True), 0.0)
        parent = np.where(num > 0, of_class, of_bin)
        bias = _bias(bins.num, bins.sum_confidence - bins.num_correct, parent)
        centres = (np.arange(context.num_bins) + 0.5) / context.num_bins
        positions = np.where(everything.num[0] > 0, everything.confidence()[0], centres)
        weights = np.where(num > 0, bins.num, everything.num) + _EMPTY_WEIGHT
        return cls(curves_through(positions, rising(np.clip(positions - bias, 0.0, 1.0), weights)))

    def __call__(self, detections: Detections) -> NDArray[np.float64]:
        require_classes(detections, len(self.curves.values))
        return self.curves(detections.class_indices, detections.raw_scores)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "knots": self.curves.knots.tolist(), "values": self.curves.values.tolist()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "CellBiasCorrector":
        """Rebuild the corrector from the output of `to_json`."""
        return cls(Curves(np.asarray(content["knots"], np.float64), np.asarray(content["values"], np.float64)))


def _bias(num: Any, gap: Any, fallback: Any) -> NDArray[np.float64]:
    """Return gap / num, and the fallback where `num` is 0."""
    num, gap, fallback = np.broadcast_arrays(num, gap, fallback)
    return np.divide(gap, num, out=np.array(fallback, dtype=np.float64), where=num > 0)
