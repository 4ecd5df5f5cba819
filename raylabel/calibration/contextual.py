"""The corrector `contextual`: boosted trees on the score and the context, and a shrunk shift of each class."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from raylabel.calibration.class_shift import ClassShift, fit_class_shift
from raylabel.calibration.corrector import FitContext, logits, require_classes
from raylabel.calibration.detections import Detections
from raylabel.context import CONTEXT_FEATURES

_PRIOR_MASS = 1000.0
"""How many detections it takes until the trees have half of the say over the score's own slope."""

_NUM_KNOTS = 32
_NUM_TREES = 40
_TREES = {
    "objective": "binary",
    "num_leaves": 8,
    "learning_rate": 0.15,
    "min_data_in_leaf": 20,
    "lambda_l2": 10.0,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}
_CHUNK = 100_000
_ROWS_FOR_THREADS = 50_000
"""Below it one thread is as fast as all, and doesn't wait for cores that others use."""


@dataclass(frozen=True)
class ContextualCorrector:
    """Log odds from the score and what else the image says, plus a shift of the class.

        log odds = (1 - w) * logit(mean accuracy) + w * logit(score) + trees(logit(score), context) + shift_class

    Whether a detection is right depends on more than its class and score: a second mask on the same object is wrong
    whatever its score. The trees (LightGBM) never fall with the score. They are evaluated at fixed knots of the score
    and interpolated between, so that the whole is continuous. The first two terms are the prior, with
    w = 1000 / (1000 + n): from few detections little but the score is left. The shifts are shrunk to their frequency
    group's, and those to 0 (`class_shift`); a class without a detection has its group's.

    Attributes:
        prior: (2,) intercept and slope of the prior on the score's logit.
        features: names of the context features that were known where it was fitted; needed of what it is applied to.
        model: LightGBM's text form of the trees; "" where there were too few detections for any.
        knots: (K,) rising logits, K >= 2, at which the trees are evaluated.
        shift: of each class.
        num_effective: (num_classes,) number of detections behind each class.

    Source: ours; trees: Ke et al. 2017 (LightGBM); shrinkage: Efron and Morris 1975.
    """

    prior: NDArray[np.float64]
    features: tuple[str, ...]
    model: str
    knots: NDArray[np.float64]
    shift: ClassShift
    kind: ClassVar[str] = "contextual"

    @classmethod
    def fit(cls, detections: Detections, context: FitContext) -> "ContextualCorrector":
        """Fit to the scored detections; weights are scaled to the effective number of detections (Kish).

        Detections without context give trees on the score alone.
        """
        scored = detections.scored()
        features, matrix = _known_features(scored)
        nothing = cls(np.array([0.0, 1.0]), features, "", np.zeros(0), ClassShift.none(context.frequency_groups))
        if not len(scored):
            return nothing
        weights = scored.weights * (scored.weights.sum() / (scored.weights**2).sum())
        slope = _PRIOR_MASS / (_PRIOR_MASS + weights.sum())
        accuracy = (weights @ scored.is_correct + 0.5) / (weights.sum() + 1)
        prior = np.array([(1 - slope) * float(logits(accuracy)), slope])
        score_logits = logits(scored.raw_scores)
        inner = np.unique(np.quantile(score_logits, np.linspace(0, 1, _NUM_KNOTS)).astype(np.float32))
        knots = np.concatenate([inner[:1] - 1, inner]).astype(np.float64)
        model = _fit_trees(score_logits, matrix, scored.is_correct, weights, prior, context.seed)
        trees = cls(prior, features, model, knots, nothing.shift)
        shift = fit_class_shift(
            trees.log_odds(scored),
            scored.class_indices,
            scored.is_correct,
            weights,
            frequency_groups=context.frequency_groups,
        )
        return cls(prior, features, model, knots, shift)

    def __call__(self, detections: Detections) -> NDArray[np.float64]:
        """Calibrated scores, (N,).

        Raises:
            ValueError: the detections lack a context feature that the corrector was fitted with.
        """
        require_classes(detections, len(self.shift.of_class))
        return expit(self.log_odds(detections))

    def log_odds(self, detections: Detections) -> NDArray[np.float64]:
        """(N,) before the logistic function."""
        score_logits = logits(detections.raw_scores)
        margins = self.prior[0] + self.prior[1] * score_logits + self.shift.of_class[detections.class_indices]
        if self.model and len(detections):
            matrix = self._needed_features(detections)
            for start in range(0, len(detections), _CHUNK):
                rows = slice(start, start + _CHUNK)
                margins[rows] += self._trees(score_logits[rows], matrix[rows])
        return margins

    def _needed_features(self, detections: Detections) -> NDArray[np.float32]:
        if not self.features:
            return np.zeros((len(detections), 0), dtype=np.float32)
        if detections.context is None:
            raise ValueError("the corrector looks at the detections' context, which they lack")
        matrix = detections.context[:, [CONTEXT_FEATURES.index(name) for name in self.features]]
        missing = [name for name, column in zip(self.features, matrix.T, strict=True) if np.isnan(column).any()]
        if missing:
            raise ValueError(f"the corrector looks at {', '.join(missing)}, which these detections lack")
        return matrix

    def _trees(self, score_logits: NDArray[np.float64], matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """The trees' log odds, linear in the score's logit between the knots and constant beyond them."""
        place = np.clip(np.searchsorted(self.knots, score_logits, side="right") - 1, 0, len(self.knots) - 2)
        low_knot, high_knot = self.knots[place], self.knots[place + 1]
        share = np.clip((score_logits - low_knot) / (high_knot - low_knot), 0.0, 1.0)
        columns = np.empty((len(matrix), 1 + matrix.shape[1]), dtype=np.float32)
        columns[:, 1:] = matrix
        columns[:, 0] = low_knot
        low = self._predict(columns)
        columns[:, 0] = high_knot
        return low + share * (self._predict(columns) - low)

    def _predict(self, columns: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(self._booster.predict(columns, raw_score=True, num_threads=_num_threads(len(columns))))

    @cached_property
    def _booster(self) -> Any:
        from lightgbm import Booster  # its import takes a second, which only this corrector needs

        return Booster(model_str=self.model)

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "prior": self.prior.tolist(),
            "features": list(self.features),
            "model": self.model,
            "knots": self.knots.tolist(),
            "shift": self.shift.to_json(),
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "ContextualCorrector":
        """Read what `to_json` gave.

        Raises:
            ValueError: a feature is not known here, as of a file from another version.
        """
        unknown = [name for name in content["features"] if name not in CONTEXT_FEATURES]
        if unknown:
            raise ValueError(f"unknown context feature {unknown[0]!r}; known are {', '.join(CONTEXT_FEATURES)}")
        return cls(
            np.asarray(content["prior"], dtype=np.float64),
            tuple(content["features"]),
            str(content["model"]),
            np.asarray(content["knots"], dtype=np.float64),
            ClassShift.from_json(content["shift"]),
        )


def _known_features(scored: Detections) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Names and columns of the features that every detection has."""
    if scored.context is None:
        return (), np.zeros((len(scored), 0), dtype=np.float32)
    known = np.flatnonzero(~np.isnan(scored.context).any(axis=0))
    return tuple(CONTEXT_FEATURES[column] for column in known), scored.context[:, known]


def _num_threads(num_rows: int) -> int:
    return 1 if num_rows < _ROWS_FOR_THREADS else 0


def _fit_trees(
    score_logits: NDArray[np.float64],
    matrix: NDArray[np.float32],
    is_correct: NDArray[np.bool_],
    weights: NDArray[np.float64],
    prior: NDArray[np.float64],
    seed: int,
) -> str:
    import lightgbm  # its import takes a second, which only this corrector needs

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
        "num_threads": _num_threads(len(columns)),
        "seed": seed,
    }
    return str(lightgbm.train(settings, data, _NUM_TREES).model_to_string())
