"""The corrector `scaled`: one factor for all scores. The worked example of adding a corrector."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from raylabel.calibration.correctors.base import FitContext
from raylabel.calibration.detections import Detections


@dataclass(frozen=True)
class ScaledCorrector:
    """Multiplies every raw score by accuracy / mean raw score, at most 1."""

    factor: float
    kind: ClassVar[str] = "scaled"
    uses_pool: ClassVar[bool] = False
    holds_back: ClassVar[bool] = False
    is_eligible: ClassVar[bool] = True
    features: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def fit(cls, detections: Detections, context: FitContext) -> "ScaledCorrector":
        scored = detections.scored()
        mean = float(scored.weights @ scored.raw_scores)
        return cls(min(float(scored.weights @ scored.is_correct) / mean, 1.0) if mean > 0 else 1.0)

    def __call__(self, detections: Detections) -> NDArray[np.float64]:
        return self.factor * detections.raw_scores

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "factor": self.factor}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "ScaledCorrector":
        return cls(float(content["factor"]))
