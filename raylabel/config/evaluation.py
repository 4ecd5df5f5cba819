"""Settings of the evaluation."""

from typing import Literal

from pydantic.dataclasses import dataclass

from raylabel.config.constraints import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluationConfig:
    """How models are measured on the validation split."""

    frequency: Literal["declared", "labelled"] = "declared"
    """Which classes are rare, common and frequent in APr, APc and APf. `declared`: as the validation file says (LVIS's
    `frequency`), so that figures compare with published ones. A file that does not say it of every class gives
    `labelled`: by the number of images that the student learns from."""
