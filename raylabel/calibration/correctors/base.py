"""What a corrector is, and what its fit may know."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from raylabel.calibration.bins import ReliabilityBins
from raylabel.calibration.detections import Detections
from raylabel.dataset.annotations import AnnotatedSet

SCORE_FLOOR = 1e-6
"""Scores are kept this far from 0 and 1 where a logit is taken."""


@dataclass(frozen=True, kw_only=True)
class FitContext:
    """What a fit may use besides the detections.

    Attributes:
        num_bins: confidence bins over (0, 1].
        frequency_groups: (num_classes,) "r", "c" or "f".
        similarity: (num_classes, num_classes) in [-1, 1] (`smoothing.class_similarity`), or None where unknown.
        seed: of the folds of cross-validation.
        num_train_images: (num_classes,) training images with the class, or None where unknown; for `norcal`.
        pool_histogram: the confidence histogram of the detections that will be corrected, such as a pool's, of which
            only `num` and `sum_confidence` count, or None; for `marginal`.
    """

    num_bins: int = 15
    frequency_groups: NDArray[np.str_]
    similarity: NDArray[np.float64] | None = None
    seed: int = 0
    num_train_images: NDArray[np.integer] | None = None
    pool_histogram: ReliabilityBins | None = None

    @staticmethod
    def of(annotated: AnnotatedSet, *, num_bins: int = 15, seed: int = 0) -> "FitContext":
        """For detections of an annotated set that the detector was not trained on.

        Frequency groups are of its training set, so those that the categories declare (LVIS) count; where one of them
        declares none, the set's own image counts stand in for them.
        """
        declared = [category.frequency for category in annotated.categories]
        return FitContext(
            num_bins=num_bins,
            frequency_groups=annotated.frequency_groups() if None in declared else np.array(declared),
            num_train_images=annotated.class_image_counts(),
            seed=seed,
        )


class Corrector(Protocol):
    """Maps detections to calibrated scores of their predicted classes."""

    kind: ClassVar[str]
    """Name of the class in `config.CORRECTOR_KINDS`."""
    uses_pool: ClassVar[bool]
    """Whether `fit` uses `FitContext.pool_histogram`. A run fits such a corrector again after its pool is labelled."""
    holds_back: ClassVar[bool]
    """Whether the fit keeps the raw score where data are few. Then any gain out of fold is enough for `auto`."""
    is_eligible: ClassVar[bool]
    """Whether `auto` may choose this kind. `auto` tries every kind."""

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the context features that detections must have for this corrector."""

    @classmethod
    def fit(cls, detections: Detections, context: FitContext) -> Self:
        """Fit to the scored detections; without any, to scores as they are."""

    def __call__(self, detections: Detections) -> NDArray[np.float64]:
        """Calibrated scores, (N,) in [0, 1], never NaN; continuous in the raw score, and never falling with it."""

    def to_json(self) -> dict[str, Any]:
        """Kind and parameters as plain numbers, lists and strings; `from_json` reads it back."""

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Read what `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: a parameter is missing or not of its form.
        """


def logits(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log odds of scores, which are kept `SCORE_FLOOR` from 0 and 1."""
    clipped = np.clip(scores, SCORE_FLOOR, 1 - SCORE_FLOOR)
    return np.log(clipped) - np.log1p(-clipped)


def require_classes(detections: Detections, num_classes: int) -> None:
    """Check that detections are of as many classes as the corrector was fitted on.

    Raises:
        ValueError: they are not.
    """
    if detections.num_classes != num_classes:
        raise ValueError(
            f"the corrector was fitted on {num_classes} classes, the detections are of {detections.num_classes}"
        )
