"""The corrector `norcal`: divide the odds by the class's frequency in training."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from raylabel.calibration.correctors.base import FitContext, logits, require_classes
from raylabel.calibration.detections import Detections

GAMMA = 0.6
"""Power of the class frequency. The value is ours: the paper tunes it per model, by AP on annotated images."""


@dataclass(frozen=True)
class NorCalCorrector:
    """Divides the odds of each class by a power of its number of training images.

    The paper divides the softmax of a region, except the background, and normalises:

        p_c / a_c / (sum_j p_j / a_j + p_background),    a_c = n_c^gamma

    A detection only has the score s of its predicted class, so the rest counts as background:

        calibrated = s / a_c / (s / a_c + 1 - s)         that is, odds / a_c

    Only the order of scores matters in the paper, so all a_c may be large. Here a_c is divided by its geometric mean
    over the classes, so that the probabilities of an average class stay.

    The method was made to help rare classes in AP. It does not give probabilities, because it uses no outcome.

    Attributes:
        log_divisors: (num_classes,) log a_c. It is 0 for a class without a training image.

    Source: Pan et al. 2021 (arXiv 2107.02170); the form for a single score is ours.
    """

    log_divisors: NDArray[np.float64]
    kind: ClassVar[str] = "norcal"
    uses_pool: ClassVar[bool] = False
    holds_back: ClassVar[bool] = False
    is_eligible: ClassVar[bool] = False
    features: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def fit(cls, detections: Detections, context: FitContext, *, gamma: float = GAMMA) -> "NorCalCorrector":
        """Take the class frequencies from `context.num_train_images`. No other data is fitted.

        If the frequencies are unknown, or no detection is scored, the scores stay unchanged.
        """
        counts = context.num_train_images
        if counts is None or not detections.is_scored.any():
            return cls(np.zeros(detections.num_classes))
        seen = np.asarray(counts) > 0
        logs = gamma * np.log(np.where(seen, counts, 1))
        return cls(np.where(seen, logs - logs[seen].mean() if seen.any() else 0.0, 0.0))

    def __call__(self, detections: Detections) -> NDArray[np.float64]:
        require_classes(detections, len(self.log_divisors))
        return expit(logits(detections.raw_scores) - self.log_divisors[detections.class_indices])

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "log_divisors": self.log_divisors.tolist()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "NorCalCorrector":
        """Rebuild the corrector from the output of `to_json`."""
        return cls(np.asarray(content["log_divisors"], dtype=np.float64))
