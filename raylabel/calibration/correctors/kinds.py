"""Every corrector by its kind: fit one, read one back."""

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
        detections: with known outcomes; ignored ones don't count. None at all gives the identity.
        context: what else a fit may use. `auto` leaves the pool's histogram out: a corrector for a pool with other
            class priors can't be judged on the detections at hand.

    Raises:
        ValueError: unknown kind, or detections without outcomes.
    """
    if kind not in CORRECTOR_KINDS:
        raise ValueError(f"corrector must be one of {', '.join(CORRECTOR_KINDS)}, got {kind!r}")
    return corrector_class(kind).fit(detections, context)


def corrector_from_json(content: dict[str, Any]) -> Corrector:
    """Read back what a corrector's `to_json` gave; keys that it doesn't know are left alone.

    Raises:
        ValueError: unknown kind, or a parameter that is missing or not of its form.
    """
    kind = content.get("kind")
    if not isinstance(kind, str) or kind not in CORRECTOR_KINDS:
        raise ValueError(f"corrector kind must be one of {', '.join(CORRECTOR_KINDS)}, got {kind!r}")
    try:
        return corrector_class(kind).from_json(content)
    except (KeyError, TypeError) as error:
        raise ValueError(f"corrector {kind!r} lacks or has a malformed parameter: {error}") from error
