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
"""Weight of a cell without a detection where curves are made rising: it yields to its neighbours."""


@dataclass(frozen=True)
class CellBiasCorrector:
    """Subtracts mean confidence - accuracy of the class and bin, linear between the bins, made rising.

    Takes the few samples of a cell at face value, which does harm: it stands for per-class histogram binning.

    Attributes:
        curves: one row a class; the knots are the bins' mean scores over all classes.

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
        """Biases of the scored detections, by weight.

        An empty cell has the bias of its class over all bins; the cells of a class without a detection have those of
        all classes together; where these are empty too, the bias of all detections, and 0 where there is none.
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
        """Read what `to_json` gave."""
        return cls(Curves(np.asarray(content["knots"], np.float64), np.asarray(content["values"], np.float64)))


def _bias(num: Any, gap: Any, fallback: Any) -> NDArray[np.float64]:
    """gap / num, and the fallback where nothing was counted."""
    num, gap, fallback = np.broadcast_arrays(num, gap, fallback)
    return np.divide(gap, num, out=np.array(fallback, dtype=np.float64), where=num > 0)
