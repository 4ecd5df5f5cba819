"""The table of correctors: each kind, and the class that implements it."""

from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import PydanticKnownError

CORRECTOR_KINDS = {
    "none": "identity:IdentityCorrector",
    "ccece": "class_bias:ClassBiasCorrector",
    "ccece_bins": "ccece_bins:CellBiasCorrector",
    "temperature": "temperature:TemperatureCorrector",
    "isotonic": "isotonic:IsotonicCorrector",
    "isotonic_per_class": "isotonic:ClassIsotonicCorrector",
    "norcal": "norcal:NorCalCorrector",
    "marginal": "marginal:MarginalCorrector",
    "hierarchical": "hierarchical:HierarchicalCorrector",
    "contextual": "contextual:ContextualCorrector",
    "auto": "auto:AutoCorrector",
}
"""Kind -> module in `calibration/correctors` and class. The classes are named, not imported, because reading a config
must not load SciPy; `calibration.correctors.kinds.corrector_class` loads one."""


def _known_kind(value: Any) -> Any:
    if not isinstance(value, str) or value not in CORRECTOR_KINDS:
        *others, last = (repr(kind) for kind in CORRECTOR_KINDS)
        raise PydanticKnownError("literal_error", {"expected": f"{', '.join(others)} or {last}"})
    return value


CorrectorKind = Annotated[str, BeforeValidator(_known_kind)]
"""A key of `CORRECTOR_KINDS`. Validation reads the table when it runs."""
