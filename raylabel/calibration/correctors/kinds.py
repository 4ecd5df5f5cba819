"""Every corrector by its kind: fit one, read one back."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from raylabel.calibration.correctors.auto import AutoCorrector
from raylabel.calibration.correctors.base import Corrector, FitContext
from raylabel.calibration.correctors.ccece_bins import CellBiasCorrector
from raylabel.calibration.correctors.class_bias import ClassBiasCorrector
from raylabel.calibration.correctors.contextual import ContextualCorrector
from raylabel.calibration.correctors.hierarchical import HierarchicalCorrector
from raylabel.calibration.correctors.identity import IdentityCorrector
from raylabel.calibration.correctors.isotonic import ClassIsotonicCorrector, IsotonicCorrector
from raylabel.calibration.correctors.marginal import MarginalCorrector
from raylabel.calibration.correctors.norcal import NorCalCorrector
from raylabel.calibration.correctors.temperature import TemperatureCorrector
from raylabel.calibration.detections import Detections

FAMILIES: Mapping[str, Callable[..., Corrector]] = {
    "none": IdentityCorrector.fit,
    "ccece": ClassBiasCorrector.fit,
    "ccece_bins": CellBiasCorrector.fit,
    "temperature": TemperatureCorrector.fit,
    "isotonic": IsotonicCorrector.fit,
    "isotonic_per_class": ClassIsotonicCorrector.fit,
    "norcal": NorCalCorrector.fit,
    "marginal": MarginalCorrector.fit,
    "hierarchical": HierarchicalCorrector.fit,
    "contextual": ContextualCorrector.fit,
}
"""Kind -> fit(detections, context); `auto` chooses among them."""

_READERS: Mapping[str, Callable[[dict[str, Any]], Corrector]] = {
    "none": IdentityCorrector.from_json,
    "ccece": ClassBiasCorrector.from_json,
    "ccece_bins": CellBiasCorrector.from_json,
    "temperature": TemperatureCorrector.from_json,
    "isotonic": IsotonicCorrector.from_json,
    "isotonic_per_class": ClassIsotonicCorrector.from_json,
    "norcal": NorCalCorrector.from_json,
    "marginal": MarginalCorrector.from_json,
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
        context: what else a fit may use. `auto` leaves the pool's histogram out: a corrector for a pool with other
            class priors can't be judged on the detections at hand.

    Raises:
        ValueError: unknown kind, or detections without outcomes.
    """
    if kind == AutoCorrector.kind:
        return AutoCorrector.fit(detections, replace(context, pool_histogram=None), FAMILIES)
    if kind not in FAMILIES:
        raise ValueError(f"corrector must be one of {', '.join(CORRECTOR_KINDS)}, got {kind!r}")
    return FAMILIES[kind](detections, context)


def needs_context(corrector: Corrector) -> bool:
    """Whether a fitted corrector looks at more than class and score."""
    chosen = corrector.chosen if isinstance(corrector, AutoCorrector) else corrector
    return isinstance(chosen, ContextualCorrector) and chosen.share > 0 and bool(chosen.features)


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
