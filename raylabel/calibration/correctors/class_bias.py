"""The corrector `ccece`: subtract the signed bias of each class."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from raylabel.calibration.correctors.base import FitContext, require_classes
from raylabel.calibration.correctors.curves import OWN_SHARE
from raylabel.calibration.detections import Detections


@dataclass(frozen=True)
class ClassBiasCorrector:
    """Subtracts mean confidence - accuracy of the class, and clips to [0, 1].

    A thousandth of the raw score is mixed in, so that clipped scores are not tied. The corrector takes few samples at
    face value. It stands for the idea of the paper, and is not the best corrector.

    Attributes:
        bias: (num_classes,) signed bias. A class unseen in calibration has the bias of all detections.

    Source: Porcher et al. 2024 (arXiv 2403.11675).
    """

    bias: NDArray[np.float64]
    kind: ClassVar[str] = "ccece"
    uses_pool: ClassVar[bool] = False
    holds_back: ClassVar[bool] = False
    is_eligible: ClassVar[bool] = False
    features: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def fit(cls, detections: Detections, context: FitContext) -> "ClassBiasCorrector":
        """Measure the bias on the scored detections. It is 0 without any."""
        scored = detections.scored()
        gaps = scored.weights * (scored.raw_scores - scored.is_correct)
        num = np.bincount(scored.class_indices, scored.weights, scored.num_classes)
        overall = gaps.sum() / num.sum() if len(scored) else 0.0
        per_class = np.bincount(scored.class_indices, gaps, scored.num_classes)
        return cls(np.divide(per_class, num, out=np.full(scored.num_classes, overall), where=num > 0))

    def __call__(self, detections: Detections) -> NDArray[np.float64]:
        require_classes(detections, len(self.bias))
        clipped = np.clip(detections.raw_scores - self.bias[detections.class_indices], 0.0, 1.0)
        return (1 - OWN_SHARE) * clipped + OWN_SHARE * detections.raw_scores

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "bias": self.bias.tolist()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "ClassBiasCorrector":
        """Rebuild the corrector from the output of `to_json`."""
        return cls(np.asarray(content["bias"], dtype=np.float64))
