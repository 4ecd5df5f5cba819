"""The corrector `none`: unchanged raw scores."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from raylabel.calibration.correctors.base import FitContext
from raylabel.calibration.detections import Detections


@dataclass(frozen=True)
class IdentityCorrector:
    """Returns the raw scores."""

    kind: ClassVar[str] = "none"
    uses_pool: ClassVar[bool] = False
    holds_back: ClassVar[bool] = False
    is_eligible: ClassVar[bool] = True
    features: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def fit(cls, detections: Detections, context: FitContext) -> "IdentityCorrector":
        """Return the corrector. It has no parameter to fit."""
        return cls()

    def __call__(self, detections: Detections) -> NDArray[np.float64]:
        return np.array(detections.raw_scores, dtype=np.float64)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "IdentityCorrector":
        """Rebuild the corrector from the output of `to_json`."""
        return cls()
