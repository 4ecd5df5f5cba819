"""The corrector `hierarchical`: accuracy per class and bin by empirical Bayes. Few samples move little."""

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln

from raylabel.calibration.bins import bin_of
from raylabel.calibration.correctors.base import FitContext, require_classes
from raylabel.calibration.correctors.curves import Curves, curves_through, rising
from raylabel.calibration.detections import Detections

_MASS_GRID = np.logspace(-1, 5, 25)
_LOG_MASS_DEVIATION = 1.5
_MAX_SWEEPS = 6
_PRIOR_FLOOR = 1e-4


@dataclass(frozen=True, kw_only=True)
class PriorMasses:
    """The number of detections that the prior of each level is worth.

    Attributes:
        overall: mass of the raw score as prior of all classes.
        group: mass of all classes as prior of the frequency group.
        similar: mass of the frequency group as prior of the similar classes.
        single: mass of the similar classes as prior of the class. Without a similarity it is the mass of the group.
    """

    overall: float
    group: float
    similar: float
    single: float


@dataclass(frozen=True)
class HierarchicalCorrector:
    """Accuracy per class and bin, shrunk to its parent, rising in the score, linear between the bins.

        accuracy = (num_correct + mass * prior) / (num + mass)

    The levels are: all classes, frequency group, similar classes, class. Similar classes count by their squared
    similarity if it is > 0. The prior of all classes is the raw score. A level never counts the class that it is the
    prior of. The masses maximise the likelihood of the class counts (beta-binomial). A class without a detection has
    the curve of its parent. Without any detection every curve is the identity.

    Attributes:
        curves: one row per class. The knots are the mean scores of the bins.
        masses: fitted strength of each prior.
        num_effective: (num_classes,) effective number of detections per class.

    Source: ours; beta-binomial empirical Bayes as in Efron and Morris 1975, pool adjacent violators for the rise.
    """

    curves: Curves
    masses: PriorMasses
    num_effective: NDArray[np.float64]
    kind: ClassVar[str] = "hierarchical"
    uses_pool: ClassVar[bool] = False
    holds_back: ClassVar[bool] = True
    is_eligible: ClassVar[bool] = True
    features: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def fit(cls, detections: Detections, context: FitContext) -> "HierarchicalCorrector":
        """Fit to the scored detections. The weighted count of each cell is scaled to its effective number (Kish)."""
        cells = _Cells.count(detections.scored(), context)
        masses = _likeliest_masses(cells)
        prior = cells.prior(masses)
        accuracy = (cells.num_correct + masses.single * prior) / (cells.num + masses.single)
        curves = curves_through(cells.positions, rising(accuracy, cells.num + masses.single))
        return cls(curves, masses, cells.num.sum(axis=1))

    def __call__(self, detections: Detections) -> NDArray[np.float64]:
        require_classes(detections, len(self.curves.values))
        return self.curves(detections.class_indices, detections.raw_scores)

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "masses": asdict(self.masses),
            "num_effective": self.num_effective.tolist(),
            "knots": self.curves.knots.tolist(),
            "values": self.curves.values.tolist(),
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "HierarchicalCorrector":
        """Rebuild the corrector from the output of `to_json`."""
        knots, values = (np.asarray(content[name], dtype=np.float64) for name in ("knots", "values"))
        return cls(Curves(knots, values), PriorMasses(**content["masses"]), np.asarray(content["num_effective"]))


@dataclass(frozen=True, kw_only=True)
class _Cells:
    """Effective counts per class and bin, (C, B), of each class and of its relatives without the class."""

    positions: NDArray[np.float64]
    num: NDArray[np.float64]
    num_correct: NDArray[np.float64]
    others: tuple[NDArray[np.float64], NDArray[np.float64]]
    group: tuple[NDArray[np.float64], NDArray[np.float64]]
    similar: tuple[NDArray[np.float64], NDArray[np.float64]] | None

    @staticmethod
    def count(scored: Detections, context: FitContext) -> "_Cells":
        shape = (scored.num_classes, context.num_bins)
        places = scored.class_indices.astype(np.int64) * context.num_bins + bin_of(scored.raw_scores, context.num_bins)

        def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.bincount(places, values, shape[0] * shape[1]).astype(np.float64).reshape(shape)

        weights, squares = total(scored.weights), total(scored.weights**2)
        to_effective = np.divide(weights, squares, out=np.zeros(shape), where=squares > 0)
        num, num_correct = weights * to_effective, total(scored.weights * scored.is_correct) * to_effective
        bin_weights = weights.sum(axis=0)
        centres = (np.arange(context.num_bins) + 0.5) / context.num_bins
        sum_scores = total(scored.weights * scored.raw_scores).sum(axis=0)
        counts = np.stack([num, num_correct])
        group_sums = np.zeros_like(counts)
        for letter in np.unique(context.frequency_groups):
            members = context.frequency_groups == letter
            group_sums[:, members] = counts[:, members].sum(axis=1, keepdims=True)
        others, group = counts.sum(axis=1, keepdims=True) - counts, group_sums - counts
        similar = None
        if context.similarity is not None:
            shares = np.maximum(context.similarity, 0.0) ** 2
            shares = np.where(np.eye(len(shares), dtype=bool), 0.0, shares)
            similar = (shares @ num, shares @ num_correct)
        return _Cells(
            positions=np.divide(sum_scores, bin_weights, out=centres, where=bin_weights > 0),
            num=num,
            num_correct=num_correct,
            others=(others[0], others[1]),
            group=(group[0], group[1]),
            similar=similar,
        )

    def prior(self, masses: PriorMasses) -> NDArray[np.float64]:
        """Return the prior accuracy per class and bin, (C, B), from all classes but the class."""
        prior = np.broadcast_to(self.positions, self.num.shape)
        levels = [(self.others, masses.overall), (self.group, masses.group)]
        if self.similar is not None:
            levels.append((self.similar, masses.similar))
        for (num, num_correct), mass in levels:
            prior = np.clip((num_correct + mass * prior) / (num + mass), 0.0, 1.0)
        return prior


def _likeliest_masses(cells: _Cells) -> PriorMasses:
    """Maximise the beta-binomial marginal likelihood over a grid, one mass at a time. Ties go to the larger mass.

    A log-normal prior on each mass decides when detections are too few to tell the masses apart.
    """
    expected = PriorMasses(overall=30.0, group=100.0, similar=100.0, single=30.0)
    masses = expected
    filled = cells.num > 0
    if not filled.any():
        return masses
    num, num_correct = cells.num[filled], cells.num_correct[filled]
    names = ["overall", "group", "single"] if cells.similar is None else ["overall", "group", "similar", "single"]

    def log_likelihood(candidate: PriorMasses) -> float:
        prior = np.clip(cells.prior(candidate)[filled], _PRIOR_FLOOR, 1 - _PRIOR_FLOOR)
        right, wrong = candidate.single * prior, candidate.single * (1 - prior)
        likelihood = (betaln(num_correct + right, num - num_correct + wrong) - betaln(right, wrong)).sum()
        surprise = [np.log(getattr(candidate, name) / getattr(expected, name)) / _LOG_MASS_DEVIATION for name in names]
        return float(likelihood - np.square(surprise).sum() / 2)

    for _ in range(_MAX_SWEEPS):
        before = masses
        for name in names:
            candidates = [replace(masses, **{name: float(mass)}) for mass in _MASS_GRID[::-1]]
            masses = max(candidates, key=log_likelihood)
        if masses == before:
            break
    return masses
