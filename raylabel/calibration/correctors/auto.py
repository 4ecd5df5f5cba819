"""The corrector `auto`: the family that helps most out of fold, or `none`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from raylabel.calibration.correctors.base import Corrector, FitContext
from raylabel.calibration.correctors.folds import MAX_TRIAL_DETECTIONS, image_folds, out_of_fold_scores, some_images
from raylabel.calibration.correctors.identity import IdentityCorrector
from raylabel.calibration.correctors.kinds import corrector_class, corrector_from_json, fit_corrector
from raylabel.calibration.detections import Detections
from raylabel.calibration.metrics.binned import pointwise_nll
from raylabel.config import CORRECTOR_KINDS

MIN_STANDARD_ERRORS = 2.0
"""Standard errors by which a family must beat `none`, unless the family holds back."""

MIN_DETECTIONS = 300
"""Detections needed before a family that does not hold back can be chosen. With 60 detections of a real detector,
isotonic regression won by up to 4.9 standard errors, and did harm."""


@dataclass(frozen=True)
class Trial:
    """The result of a family out of fold.

    Attributes:
        nll: weighted mean NLL.
        gain: NLL of `none` minus `nll`; > 0 is better than `none`.
        gain_error: standard error of `gain` over images.
    """

    nll: float
    gain: float
    gain_error: float


@dataclass(frozen=True)
class AutoCorrector:
    """The family with the lowest cross-validated NLL among those that beat `none`.

    A family that holds back must beat `none` by any amount. Another family must beat it by more than
    `MIN_STANDARD_ERRORS`, on at least `MIN_DETECTIONS`. Two standard errors on a few hundred detections would reject
    both families that hold back, although both improve the scores (docs/decisions.md).

    Families that are not eligible are tried for the table only. They take few samples at face value, or use no
    outcome. The trial flatters them: the held-out detections of a small class get the correction for unseen classes,
    but the fitted corrector will not use it. With one detection per class on a real detector `ccece` won its trial, and
    raised NLL from 0.349 to 0.456.

    Attributes:
        chosen: the winner, fitted to all detections; `none` if no family qualifies.
        trials: results by kind; empty without a scored detection.
    """

    chosen: Corrector
    trials: Mapping[str, Trial]
    kind: ClassVar[str] = "auto"
    uses_pool: ClassVar[bool] = False
    holds_back: ClassVar[bool] = False
    is_eligible: ClassVar[bool] = False

    @classmethod
    def fit(cls, detections: Detections, context: FitContext) -> "AutoCorrector":
        """Try every family with folds by image (`folds.NUM_FOLDS`), then fit the winner to all detections."""
        context = replace(context, pool_histogram=None)
        scored = some_images(detections.scored(), MAX_TRIAL_DETECTIONS, seed=context.seed)
        if not len(scored):
            return cls(IdentityCorrector(), {})
        folds = image_folds(scored.image_indices, seed=context.seed)
        raw_losses = pointwise_nll(scored.raw_scores, scored.is_correct)
        trials = {}
        for kind in (one for one in CORRECTOR_KINDS if one != cls.kind):
            scores = out_of_fold_scores(scored, folds, partial(fit_corrector, kind, context=context))
            trials[kind] = _compare(scored, pointwise_nll(scores, scored.is_correct), raw_losses)
        better = [kind for kind, trial in trials.items() if _is_better(kind, trial, len(scored))]
        best = min(better, key=lambda kind: trials[kind].nll) if better else IdentityCorrector.kind
        return cls(fit_corrector(best, detections, context=context), trials)

    @property
    def features(self) -> tuple[str, ...]:
        """Context features of the chosen corrector."""
        return self.chosen.features

    def __call__(self, detections: Detections) -> NDArray[np.float64]:
        return self.chosen(detections)

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "chosen": self.chosen.to_json(),
            "cross_validation": {kind: vars(trial) for kind, trial in self.trials.items()},
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "AutoCorrector":
        """Rebuild the corrector from the output of `to_json`."""
        trials = {kind: Trial(**trial) for kind, trial in content["cross_validation"].items()}
        return cls(corrector_from_json(content["chosen"]), trials)


def chosen_kind(corrector: Corrector) -> str:
    """Return the kind that `auto` chose. For every other corrector, return its own kind."""
    return corrector.chosen.kind if isinstance(corrector, AutoCorrector) else corrector.kind


def _is_better(kind: str, trial: Trial, num_detections: int) -> bool:
    family = corrector_class(kind)
    if family.holds_back:
        return family.is_eligible and trial.gain > 0
    is_plain = trial.gain > MIN_STANDARD_ERRORS * trial.gain_error and num_detections >= MIN_DETECTIONS
    return family.is_eligible and is_plain


def _compare(scored: Detections, losses: NDArray[np.float64], raw_losses: NDArray[np.float64]) -> Trial:
    """Compare losses. The gain is a ratio of sums over images, and its standard error is linearised.

    With one image the standard error is the largest float.
    """
    _, images = np.unique(scored.image_indices, return_inverse=True)
    weights = np.bincount(images, scored.weights)
    gains = np.bincount(images, scored.weights * (raw_losses - losses))
    gain = gains.sum() / weights.sum()
    num = len(weights)
    error = (
        np.sqrt(num / (num - 1) * ((gains - gain * weights) ** 2).sum()) / weights.sum()
        if num > 1
        else np.finfo(float).max
    )
    return Trial(float(np.average(losses, weights=scored.weights)), float(gain), float(error))
