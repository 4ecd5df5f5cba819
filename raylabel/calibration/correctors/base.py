"""The interface of a corrector, and the data that its fit may use."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from raylabel.calibration.bins import ReliabilityBins
from raylabel.calibration.detections import Detections
from raylabel.dataset.annotations import AnnotatedSet

SCORE_FLOOR = 1e-6
"""Scores are clipped to this distance from 0 and 1 before a logit is taken."""


@dataclass(frozen=True, kw_only=True)
class FitContext:
    """The data that a fit may use besides the detections.

    Attributes:
        num_bins: confidence bins over (0, 1].
        frequency_groups: (num_classes,) "r", "c" or "f".
        similarity: (num_classes, num_classes) in [-1, 1] (`smoothing.class_similarity`), or None if unknown.
        seed: seed of the folds of cross-validation.
        num_train_images: (num_classes,) training images with the class, or None if unknown. `norcal` uses it.
        pool_histogram: confidence histogram of the detections to correct, such as a pool's, or None. Only its `num` and
            `sum_confidence` count. `marginal` uses it.

    Examples:
        >>> import numpy as np
        >>> import raylabel as rl
        >>> context = rl.FitContext(frequency_groups=np.array(["r", "f"]), num_bins=10)
        >>> context.num_bins, context.seed
        (10, 0)
    """

    num_bins: int = 15
    frequency_groups: NDArray[np.str_]
    similarity: NDArray[np.float64] | None = None
    seed: int = 0
    num_train_images: NDArray[np.integer] | None = None
    pool_histogram: ReliabilityBins | None = None

    @staticmethod
    def of(
        annotated: AnnotatedSet, *, train: AnnotatedSet | None = None, num_bins: int = 15, seed: int = 0
    ) -> "FitContext":
        """Build the context for detections of an annotated set that the detector was not trained on.

        Frequency groups and image counts belong to the training set. If every category of `annotated` declares its
        group (LVIS), the declared groups are used. Otherwise the groups follow from the image counts.

        Args:
            annotated: the set that the detections belong to.
            train: the set that the detector was trained on, with the same classes. Without it, the image counts are
                those of `annotated`.
            num_bins: confidence bins over (0, 1].
            seed: seed of the folds of cross-validation.
        """
        declared = [category.frequency for category in annotated.categories]
        counted = annotated if train is None else train
        return FitContext(
            num_bins=num_bins,
            frequency_groups=counted.frequency_groups() if None in declared else np.array(declared),
            num_train_images=counted.class_image_counts(),
            seed=seed,
        )


class Corrector(Protocol):
    """A fitted map from detections to calibrated scores of their predicted classes.

    Examples:
        >>> import raylabel as rl
        >>> from raylabel.calibration import corrector_from_json
        >>> corrector: rl.Corrector = corrector_from_json({"kind": "temperature", "temperature": 2.0})
        >>> corrector(rl.Detections.of_scores([0, 0], [0.5, 0.9], num_classes=1)).round(3).tolist()
        [0.5, 0.75]
    """

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
        """Fit to the scored detections. Without any, the corrector leaves the raw scores unchanged."""

    def __call__(self, detections: Detections) -> NDArray[np.float64]:
        """Return the calibrated scores, (N,) in [0, 1].

        They are never NaN. They are continuous in the raw score and never fall when it rises.
        """

    def to_json(self) -> dict[str, Any]:
        """Return kind and parameters as plain numbers, lists and strings. `from_json` reads them back."""

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Rebuild the corrector from the output of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: a parameter is missing or malformed.
        """


def logits(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log odds of scores, clipped to `SCORE_FLOOR` from 0 and 1."""
    clipped = np.clip(scores, SCORE_FLOOR, 1 - SCORE_FLOOR)
    return np.log(clipped) - np.log1p(-clipped)


def require_classes(detections: Detections, num_classes: int) -> None:
    """Check that the detections have the number of classes that the corrector was fitted on.

    Raises:
        ValueError: the numbers differ.
    """
    if detections.num_classes != num_classes:
        raise ValueError(
            f"the corrector was fitted on {num_classes} classes, the detections have {detections.num_classes}"
        )
