"""Every corrector by its kind: fit one, read one back."""

from collections.abc import Callable, Mapping
from typing import Any

from raylabel.calibration.auto import AutoCorrector
from raylabel.calibration.class_bias import ClassBiasCorrector
from raylabel.calibration.contextual import ContextualCorrector
from raylabel.calibration.corrector import Corrector, FitContext
from raylabel.calibration.detections import Detections
from raylabel.calibration.hierarchical import HierarchicalCorrector
from raylabel.calibration.identity import IdentityCorrector
from raylabel.calibration.isotonic import IsotonicCorrector
from raylabel.calibration.temperature import TemperatureCorrector

FAMILIES: Mapping[str, Callable[..., Corrector]] = {
    "none": IdentityCorrector.fit,
    "ccece": ClassBiasCorrector.fit,
    "temperature": TemperatureCorrector.fit,
    "isotonic": IsotonicCorrector.fit,
    "hierarchical": HierarchicalCorrector.fit,
    "contextual": ContextualCorrector.fit,
}
"""Kind -> fit(detections, context); `auto` chooses among them."""

_READERS: Mapping[str, Callable[[dict[str, Any]], Corrector]] = {
    "none": IdentityCorrector.from_json,
    "ccece": ClassBiasCorrector.from_json,
    "temperature": TemperatureCorrector.from_json,
    "isotonic": IsotonicCorrector.from_json,
    "hierarchical": HierarchicalCorrector.from_json,
    "contextual": ContextualCorrector.from_json,
    "auto": lambda content: AutoCorrector.from_json(content, corrector_from_json),
}

CORRECTOR_KINDS = tuple(_READERS)
"""Every kind that can be asked for."""


def fit_corrector(kind: str, detections: Detections, *, context: FitContext) -> Corrector:
    """Fit a corrector.

    Args:
        kind: a key of `FAMILIES`, or "auto".
        detections: with known outcomes; ignored ones don't count. None at all gives the identity.
        context: bins, frequency groups, similarity and seed.

    Raises:
        ValueError: unknown kind, or detections without outcomes.
    """
    if kind == AutoCorrector.kind:
        return AutoCorrector.fit(detections, context, FAMILIES)
    if kind not in FAMILIES:
        raise ValueError(f"corrector must be one of {', '.join(CORRECTOR_KINDS)}, got {kind!r}")
    return FAMILIES[kind](detections, context)


def needs_context(corrector: Corrector) -> bool:
    """Whether a fitted corrector looks at more than class and score."""
    chosen = corrector.chosen if isinstance(corrector, AutoCorrector) else corrector
    return chosen.kind == ContextualCorrector.kind


def corrector_from_json(content: dict[str, Any]) -> Corrector:
    """Read back what a corrector's `to_json` gave; keys that it doesn't know are left alone.

    Raises:
        ValueError: unknown kind, or a parameter that is missing or not of its form.
    """
    kind = content.get("kind")
    if not isinstance(kind, str) or kind not in _READERS:
        raise ValueError(f"corrector kind must be one of {', '.join(_READERS)}, got {kind!r}")
    try:
        return _READERS[kind](content)
    except (KeyError, TypeError) as error:
        raise ValueError(f"corrector {kind!r} lacks or has a malformed parameter: {error}") from error
