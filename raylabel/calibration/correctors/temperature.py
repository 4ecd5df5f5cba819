"""The corrector `temperature`: one number for all classes."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit

from raylabel.calibration.correctors.base import FitContext, logits
from raylabel.calibration.detections import Detections

_LOG_TEMPERATURE_BOUND = 5.0


@dataclass(frozen=True)
class TemperatureCorrector:
    """Divides the logit of the score by a temperature: calibrated = sigmoid(logit(score) / temperature).

    It has one parameter and no bias term, so 0.5 stays 0.5.

    Attributes:
        temperature: > 0. A value > 1 moves scores towards 0.5.

    Source: Guo et al. 2017 (arXiv 1706.04599), here on the predicted class's score alone.
    """

    temperature: float
    kind: ClassVar[str] = "temperature"
    uses_pool: ClassVar[bool] = False
    holds_back: ClassVar[bool] = False
    is_eligible: ClassVar[bool] = True
    features: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def fit(cls, detections: Detections, context: FitContext) -> "TemperatureCorrector":
        """Minimise the weighted NLL of the scored detections.

        A prior log(temperature) ~ N(0, 1) dominates when data are few. For the prior, weights are scaled to the
        effective number of detections. Without any detection the temperature is 1.
        """
        scored = detections.scored()
        if not len(scored):
            return cls(1.0)
        signed_logits = logits(scored.raw_scores) * np.where(scored.is_correct, 1.0, -1.0)
        weights = scored.weights * (scored.weights.sum() / (scored.weights**2).sum())

        def loss(log_temperature: float) -> float:
            losses = np.logaddexp(0.0, -signed_logits * np.exp(-log_temperature))
            return float(weights @ losses) + log_temperature**2 / 2

        bounds = (-_LOG_TEMPERATURE_BOUND, _LOG_TEMPERATURE_BOUND)
        found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-8})
        return cls(float(np.exp(found.x)))

    def __call__(self, detections: Detections) -> NDArray[np.float64]:
        return expit(logits(detections.raw_scores) / self.temperature)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "temperature": self.temperature}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "TemperatureCorrector":
        """Rebuild the corrector from the output of `to_json`."""
        return cls(float(content["temperature"]))
