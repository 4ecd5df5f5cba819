"""The corrector `norcal`: divide by the class's frequency in training."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from raylabel.calibration.correctors.base import FitContext, logits, require_classes
from raylabel.calibration.detections import Detections

GAMMA = 0.6
"""Power of the class's frequency, ours to choose: the paper tunes it for each model, by AP on annotated images."""


@dataclass(frozen=True)
class NorCalCorrector:
    """Divides each class by its number of training images to a power, and the odds are formed anew.

    The paper divides the softmax of a region, background aside, and normalises:

        p_c / a_c / (sum_j p_j / a_j + p_background),    a_c = n_c^gamma

    Of a detection only the predicted class's score s is known, so all the rest counts as background:

        calibrated = s / a_c / (s / a_c + 1 - s)         that is, odds / a_c

    Only the order of scores matters to the paper, so its a_c may all be large. Here a_c is divided by its geometric
    mean over the classes, so that probabilities of an average class stay.

    Made to help rare classes in AP, not to give probabilities: it looks at no outcome.

    Attributes:
        log_divisors: (num_classes,) log a_c; 0 for a class without a training image.

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
        """Take the class frequencies of `context.num_train_images`; nothing else is fitted.

        Where they are unknown every class counts the same, and without a scored detection nothing is known of the
        scores at all: both leave the scores as they are.
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
        """Read what `to_json` gave."""
        return cls(np.asarray(content["log_divisors"], dtype=np.float64))
