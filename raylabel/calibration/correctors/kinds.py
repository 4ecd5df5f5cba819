"""Correctors by kind: load the class, fit a corrector, read one back."""

from importlib import import_module
from typing import Any

import numpy as np

from raylabel.calibration.correctors.base import Corrector, FitContext
from raylabel.calibration.detections import Detections
from raylabel.config import CORRECTOR_KINDS
from raylabel.errors import shown, shown_error
from raylabel.predictions.context import CONTEXT_FEATURES

_NUM_TRIED_SCORES = 21


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


def corrector_from_json(content: Any) -> Corrector:
    """Rebuild a corrector from the output of its `to_json`. Unknown keys are ignored.

    Raises:
        ValueError: the kind is unknown, or a parameter is missing or malformed. The message is one line.
    """
    if not isinstance(content, dict):
        raise ValueError(f"a corrector must be an object, got {type(content).__name__}")
    kind = content.get("kind")
    if not isinstance(kind, str) or kind not in CORRECTOR_KINDS:
        raise ValueError(f"corrector kind must be one of {', '.join(CORRECTOR_KINDS)}, got {shown(kind)}")
    try:
        return corrector_class(kind).from_json(content)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = shown_error(error)
        raise ValueError(f"corrector {kind!r} lacks or has a malformed parameter: {reason}") from error


def try_corrector(corrector: Corrector, num_classes: int) -> None:
    """Apply a corrector that was read from a file to detections of every class, because its parameters may not fit.

    Raises:
        ValueError: it fails, or gives a score that is not in [0, 1]. The message is one line.
    """
    scores = np.linspace(0, 1, _NUM_TRIED_SCORES)
    tried = Detections.of_scores(
        np.repeat(np.arange(num_classes), len(scores)),
        np.tile(scores, num_classes),
        num_classes=num_classes,
        context=np.zeros((num_classes * len(scores), len(CONTEXT_FEATURES)), np.float32),
    )
    try:
        with np.errstate(all="ignore"):
            given = corrector(tried)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"corrector {corrector.kind!r} does not fit its classes: {shown_error(error)}") from error
    if not ((given >= 0) & (given <= 1)).all():
        raise ValueError(f"corrector {corrector.kind!r} gives scores that are not in [0, 1]")
