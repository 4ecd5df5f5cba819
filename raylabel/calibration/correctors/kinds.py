"""Correctors by kind: load the class, fit a corrector, read one back."""

from importlib import import_module
from typing import Any

from raylabel.calibration.correctors.base import Corrector, FitContext
from raylabel.calibration.detections import Detections
from raylabel.config import CORRECTOR_KINDS


def corrector_class(kind: str) -> type[Corrector]:
    """Load the class of a kind in `CORRECTOR_KINDS`."""
    module, name = CORRECTOR_KINDS[kind].split(":")
    found: type[Corrector] = getattr(import_module(f"raylabel.calibration.correctors.{module}"), name)
    return found


def fit_corrector(kind: str, detections: Detections, *, context: FitContext) -> Corrector:
    """Fit a corrector.

    Args:
        kind: a key of `CORRECTOR_KINDS`.
        detections: detections with known outcomes. Ignored detections do not count. Without any scored detection the
            corrector leaves the raw scores unchanged.
        context: further data for the fit. `auto` drops the pool's histogram, because a corrector for a pool with other
            class priors cannot be judged on these detections.

    Raises:
        ValueError: the kind is unknown, or the detections have no outcomes.

    Examples:
        >>> from dataclasses import replace
        >>> import numpy as np
        >>> import raylabel as rl
        >>> detections = rl.Detections.of_scores([0, 0, 0, 0], [0.9, 0.9, 0.9, 0.9], num_classes=1)
        >>> detections = replace(detections, outcomes=np.array([1, 0, 1, 0], np.int8))
        >>> context = rl.FitContext(frequency_groups=np.array(["r"]))
        >>> corrector = rl.fit_corrector("ccece", detections, context=context)
        >>> corrector(detections).round(2).tolist()
        [0.5, 0.5, 0.5, 0.5]
    """
    if kind not in CORRECTOR_KINDS:
        raise ValueError(f"corrector must be one of {', '.join(CORRECTOR_KINDS)}, got {kind!r}")
    return corrector_class(kind).fit(detections, context)


def corrector_from_json(content: dict[str, Any]) -> Corrector:
    """Rebuild a corrector from the output of its `to_json`. Unknown keys are ignored.

    Raises:
        ValueError: the kind is unknown, or a parameter is missing or malformed.
    """
    kind = content.get("kind")
    if not isinstance(kind, str) or kind not in CORRECTOR_KINDS:
        raise ValueError(f"corrector kind must be one of {', '.join(CORRECTOR_KINDS)}, got {kind!r}")
    try:
        return corrector_class(kind).from_json(content)
    except (KeyError, TypeError) as error:
        raise ValueError(f"corrector {kind!r} lacks or has a malformed parameter: {error}") from error
