"""The corrector `contextual`: boosted trees on score and context, plus a shrunk shift of each class."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit

from raylabel.calibration.correctors.base import FitContext, logits, require_classes
from raylabel.calibration.correctors.class_shift import ClassShift, fit_class_shift
from raylabel.calibration.correctors.folds import MAX_TRIAL_DETECTIONS, image_folds, some_images
from raylabel.calibration.correctors.tree_text import check_trees
from raylabel.calibration.detections import Detections
from raylabel.errors import shown
from raylabel.predictions.context import CONTEXT_FEATURES
from raylabel.threads import map_on_threads

_PRIOR_MASS = 1000.0
"""Number of detections at which the trees replace half of the slope of the raw score."""

_SHARE_COST = 2.0
"""Log likelihood that the full model must gain out of fold before it is used."""

_NUM_KNOTS = 32
_NUM_TREES = 30
_TREES = {
    "objective": "binary",
    "num_leaves": 8,
    "learning_rate": 0.2,
    "min_data_in_leaf": 20,
    "lambda_l2": 10.0,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}
_CHUNK = 20_000
_ROWS_FOR_THREADS = 50_000
"""Below this number of rows one thread is as fast as all, and does not wait for busy cores."""


@dataclass(frozen=True, kw_only=True)
class ContextualCorrector:
    """Log odds from the score and the context of the image, plus a shift of the class.

        log odds = (1 - share) * logit(score) + share * model + shift_class
        model    = (1 - w) * logit(mean accuracy) + w * logit(score) + trees(logit(score), context)

    Correctness depends on more than class and score: a second mask on the same object is wrong at any score. The trees
    (LightGBM) never fall when the score rises. They are evaluated at fixed knots of the score and interpolated between
    the knots, so that the corrector is continuous.

    Below the lowest score of the fit the model knows nothing. There the log odds fall with logit(score) alone, so that
    detections under a lower threshold are not treated like those of the fit.

    Few detections change little:

    - w = 1000 / (1000 + n) keeps the slope of the raw score.
    - The share is the likeliest one out of fold, by image. It is 0 if the trees do not help on other images.
    - Class shifts are shrunk to the shift of their frequency group, and group shifts to 0 (`class_shift`). A class
      without a detection has the shift of its group.

    Attributes:
        share: weight of the model, in [0, 1].
        prior: (2,) intercept and slope of the model on the logit of the score, without the trees.
        model_features: names of the context features that were known in the fit. They are the columns of the trees.
        trees: the trees in LightGBM's text form; "" without any detection.
        knots: (K,) rising logits, K >= 2, at which the trees are evaluated.
        shift: shift of each class.

    Source: ours; trees: Ke et al. 2017 (LightGBM); shrinkage: Efron and Morris 1975; share: Wolpert 1992 (stacking).
    """

    share: float
    prior: NDArray[np.float64]
    model_features: tuple[str, ...]
    trees: str
    knots: NDArray[np.float64]
    shift: ClassShift
    kind: ClassVar[str] = "contextual"
    uses_pool: ClassVar[bool] = False
    holds_back: ClassVar[bool] = True
    is_eligible: ClassVar[bool] = True

    @classmethod
    def fit(cls, detections: Detections, context: FitContext) -> "ContextualCorrector":
        """Fit to the scored detections. Weights are scaled to the effective number of detections (Kish).

        If the detections have no context, the trees use the score alone.
        """
        scored = detections.scored()
        model = cls._fit_model(scored, context)
        if not model.trees:
            return model
        tried = some_images(scored, MAX_TRIAL_DETECTIONS, seed=context.seed)
        share = _likeliest_share(tried, cls._held_out_log_odds(tried, context))
        model = replace(model, share=share)
        shift = fit_class_shift(
            model.log_odds(scored),
            scored.class_indices,
            scored.is_correct,
            _effective_weights(scored),
            frequency_groups=context.frequency_groups,
        )
        return replace(model, share=share, shift=shift)

    @classmethod
    def _fit_model(cls, scored: Detections, context: FitContext) -> "ContextualCorrector":
        """Fit the model alone, with a share of 1 and no shift."""
        features, matrix = _known_features(scored)
        nothing = ClassShift.none(context.frequency_groups)
        if not len(scored):
            knots = np.array([0.0, 1.0])
            prior = np.array([0.0, 1.0])
            return cls(share=0.0, prior=prior, model_features=features, trees="", knots=knots, shift=nothing)
        weights = _effective_weights(scored)
        slope = _PRIOR_MASS / (_PRIOR_MASS + weights.sum())
        accuracy = (weights @ scored.is_correct + 0.5) / (weights.sum() + 1)
        prior = np.array([(1 - slope) * float(logits(accuracy)), slope])
        score_logits = logits(scored.raw_scores)
        inner = np.unique(np.quantile(score_logits, np.linspace(0, 1, _NUM_KNOTS)).astype(np.float32))
        return cls(
            share=1.0,
            prior=prior,
            model_features=features,
            trees=_fit_trees(score_logits, matrix, scored.is_correct, weights, prior, context.seed),
            knots=np.concatenate([inner[:1] - 1, inner]).astype(np.float64),
            shift=nothing,
        )

    @classmethod
    def _held_out_log_odds(cls, scored: Detections, context: FitContext) -> NDArray[np.float64]:
        folds = image_folds(scored.image_indices, seed=context.seed)
        log_odds = np.empty(len(scored))
        for fold in np.unique(folds):
            model = cls._fit_model(scored.subset(folds != fold), context)
            log_odds[folds == fold] = model.log_odds(scored.subset(folds == fold))
        return log_odds

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the context features that detections must have. None if the share of the model is 0."""
        return self.model_features if self.share > 0 else ()

    def __call__(self, detections: Detections) -> NDArray[np.float64]:
        """Return the calibrated scores, (N,).

        Raises:
            ValueError: the detections lack a context feature of the fit.
        """
        require_classes(detections, len(self.shift.of_class))
        return expit(self.log_odds(detections))

    def log_odds(self, detections: Detections) -> NDArray[np.float64]:
        """Return the log odds, (N,). Chunks of the detections run on separate threads."""
        parts = [detections.subset(slice(start, start + _CHUNK)) for start in range(0, len(detections), _CHUNK)]
        return np.concatenate([np.zeros(0), *map_on_threads(self._log_odds_of_part, parts)])

    def _log_odds_of_part(self, detections: Detections) -> NDArray[np.float64]:
        score_logits = logits(detections.raw_scores)
        intercept, slope = self.share * self.prior[0], 1 - self.share + self.share * self.prior[1]
        below = np.minimum(score_logits - self.knots[1], 0.0)
        found = intercept + slope * score_logits + (1 - slope) * below + self.shift.of_class[detections.class_indices]
        if self.share > 0:
            found += self.share * self._interpolated_trees(score_logits, self._needed_features(detections))
        return found

    def _needed_features(self, detections: Detections) -> NDArray[np.float32]:
        if not self.features:
            return np.zeros((len(detections), 0), dtype=np.float32)
        if detections.context is None:
            raise ValueError("the corrector needs the detections' context, which they lack")
        matrix = detections.context.take([CONTEXT_FEATURES.index(name) for name in self.features], axis=1)
        if np.isnan(matrix).any():
            missing = [name for name, column in zip(self.features, matrix.T, strict=True) if np.isnan(column).any()]
            raise ValueError(f"the corrector needs {', '.join(missing)}, which these detections lack")
        return matrix

    def _interpolated_trees(
        self, score_logits: NDArray[np.float64], matrix: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Return the log odds of the trees, linear in the logit between the knots and constant beyond them."""
        place = np.clip(np.searchsorted(self.knots, score_logits, side="right") - 1, 0, len(self.knots) - 2)
        low_knot, high_knot = self.knots[place], self.knots[place + 1]
        along = np.clip((score_logits - low_knot) / (high_knot - low_knot), 0.0, 1.0)
        columns = np.empty((len(matrix), 1 + matrix.shape[1]), dtype=np.float32)
        columns[:, 1:] = matrix
        columns[:, 0] = low_knot
        low = self._predict(columns)
        columns[:, 0] = high_knot
        return low + along * (self._predict(columns) - low)

    def _predict(self, columns: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(self._booster.predict(columns, raw_score=True, num_threads=1))

    @cached_property
    def _booster(self) -> Any:
        from lightgbm import Booster  # here, because the import takes a second and only this corrector needs it
        from lightgbm.basic import LightGBMError

        num_features = 1 + len(self.model_features)
        try:
            check_trees(self.trees, num_features)
            booster = Booster(model_str=self.trees)
        except (LightGBMError, ValueError) as error:
            raise ValueError(f"the corrector's trees are not a LightGBM model: {error}") from error
        if booster.num_feature() != num_features:
            raise ValueError(f"the corrector's trees must have {num_features} features, got {booster.num_feature()}")
        return booster

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "share": self.share,
            "prior": self.prior.tolist(),
            "features": list(self.model_features),
            "trees": self.trees,
            "knots": self.knots.tolist(),
            "shift": self.shift.to_json(),
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "ContextualCorrector":
        """Rebuild the corrector from the output of `to_json`.

        Raises:
            ValueError: this version does not know a feature of the file.
        """
        unknown = [name for name in content["features"] if name not in CONTEXT_FEATURES]
        if unknown:
            raise ValueError(
                f"unknown context feature {shown(unknown[0])}; known features: {', '.join(CONTEXT_FEATURES)}"
            )
        return cls(
            share=float(content["share"]),
            prior=np.asarray(content["prior"], dtype=np.float64),
            model_features=tuple(content["features"]),
            trees=str(content["trees"]),
            knots=np.asarray(content["knots"], dtype=np.float64),
            shift=ClassShift.from_json(content["shift"]),
        )


def _effective_weights(scored: Detections) -> NDArray[np.float64]:
    """Scale the weights so that their sum is the effective number of detections."""
    return scored.weights * (scored.weights.sum() / (scored.weights**2).sum())


def _likeliest_share(scored: Detections, held_out_log_odds: NDArray[np.float64]) -> float:
    """Return the share that maximises the held-out log likelihood minus `_SHARE_COST` * share."""
    raw, signs = logits(scored.raw_scores), np.where(scored.is_correct, 1.0, -1.0)
    weights = _effective_weights(scored)

    def loss(share: float) -> float:
        log_odds = (1 - share) * raw + share * held_out_log_odds
        return float(weights @ np.logaddexp(0.0, -signs * log_odds)) + _SHARE_COST * share

    inside = float(minimize_scalar(loss, bounds=(0.0, 1.0), method="bounded").x)
    return min((0.0, 1.0, inside), key=loss)


def _known_features(scored: Detections) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Return names and columns of the features that every detection has."""
    if scored.context is None:
        return (), np.zeros((len(scored), 0), dtype=np.float32)
    known = np.flatnonzero(~np.isnan(scored.context).any(axis=0))
    return tuple(CONTEXT_FEATURES[column] for column in known), scored.context[:, known]


def _fit_trees(
    score_logits: NDArray[np.float64],
    matrix: NDArray[np.float32],
    is_correct: NDArray[np.bool_],
    weights: NDArray[np.float64],
    prior: NDArray[np.float64],
    seed: int,
) -> str:
    import lightgbm  # here, because the import takes a second and only this corrector needs it

    columns = np.column_stack([score_logits.astype(np.float32), matrix])
    data = lightgbm.Dataset(
        columns,
        label=is_correct.astype(np.float32),
        weight=weights,
        init_score=prior[0] + prior[1] * score_logits,
        params={"verbosity": -1},
    )
    settings = _TREES | {
        "monotone_constraints": [1] + [0] * matrix.shape[1],
        "num_threads": 1 if len(columns) < _ROWS_FOR_THREADS else 0,
        "seed": seed,
    }
    return str(lightgbm.train(settings, data, _NUM_TREES).model_to_string())
