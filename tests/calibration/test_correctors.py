"""What every corrector promises, and what each one does."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression

from raylabel.calibration import (
    CORRECTOR_KINDS,
    Corrector,
    Detections,
    FitContext,
    corrector_from_json,
    ece,
    fit_corrector,
    image_folds,
    nll,
    out_of_fold_scores,
)
from raylabel.calibration.auto import HELD_BACK, AutoCorrector
from raylabel.calibration.bins import ReliabilityBins
from raylabel.calibration.ccece_bins import CellBiasCorrector
from raylabel.calibration.class_bias import ClassBiasCorrector
from raylabel.calibration.correctors import FAMILIES
from raylabel.calibration.curves import curves_through, rising
from raylabel.calibration.folds import some_images
from raylabel.calibration.hierarchical import HierarchicalCorrector
from raylabel.calibration.isotonic import IsotonicCorrector
from raylabel.calibration.isotonic_per_class import ClassIsotonicCorrector
from raylabel.calibration.marginal import MarginalCorrector
from raylabel.calibration.norcal import NorCalCorrector
from raylabel.calibration.results_file import read_detections
from raylabel.calibration.temperature import TemperatureCorrector
from raylabel.dataset.annotations import read_annotations

NUM_CLASSES = 6
GROUPS = np.array(["r", "r", "c", "c", "f", "f"])
GRID = np.linspace(0, 1, 1001)


def context(*, with_similarity: bool = False, num_bins: int = 10) -> FitContext:
    similarity = np.full((NUM_CLASSES, NUM_CLASSES), 0.5) + 0.5 * np.eye(NUM_CLASSES) if with_similarity else None
    return FitContext(
        num_bins=num_bins,
        frequency_groups=GROUPS,
        similarity=similarity,
        num_train_images=np.array([1, 1, 20, 20, 300, 0]) if with_similarity else None,
    )


def simulated(
    seed: int, num: int, accuracy: Callable[[np.ndarray, np.ndarray], np.ndarray], *, num_images: int = 50
) -> Detections:
    """Detections that are correct with a given probability of (class, score); class 5 never occurs."""
    rng = np.random.default_rng(seed)
    classes = rng.choice(5, num, p=[0.02, 0.04, 0.1, 0.24, 0.6]).astype(np.int32)
    scores = rng.beta(0.7, 1.5, num)
    return Detections(
        num_classes=NUM_CLASSES,
        class_indices=classes,
        raw_scores=scores,
        image_indices=rng.integers(0, num_images, num),
        outcomes=(rng.random(num) < accuracy(classes, scores)).astype(np.int8),
        weights=np.ones(num),
    )


def overconfident(classes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return scores**2


def calibrated(classes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return scores


@st.composite
def any_detections(draw: st.DrawFn) -> Detections:
    """Few or many, of few classes, tied and extreme scores, any outcomes and weights."""
    num = draw(st.integers(0, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    classes = rng.choice(draw(st.lists(st.integers(0, NUM_CLASSES - 1), min_size=1, max_size=4)), num)
    palette = [0.0, 1.0, 0.1, 1e-9, 1 - 1e-9, *rng.random(4)]
    outcomes = draw(st.sampled_from([[0], [1], [2], [0, 1], [0, 1, 2]]))
    return Detections(
        num_classes=NUM_CLASSES,
        class_indices=classes.astype(np.int32),
        raw_scores=rng.choice(palette[: draw(st.integers(1, len(palette)))], num),
        image_indices=rng.integers(0, draw(st.integers(1, 8)), num),
        outcomes=rng.choice(outcomes, num).astype(np.int8),
        weights=rng.choice([1.0, 30.0], num),
    )


def on_grid(class_index: int) -> Detections:
    return Detections.of_scores(np.full(len(GRID), class_index), GRID, num_classes=NUM_CLASSES)


@pytest.mark.parametrize("kind", CORRECTOR_KINDS)
@settings(max_examples=25, deadline=None)
@given(detections=any_detections(), with_similarity=st.booleans())
def test_what_every_corrector_promises(kind: str, detections: Detections, with_similarity: bool) -> None:
    corrector = fit_corrector(kind, detections, context=context(with_similarity=with_similarity))
    assert corrector.kind == kind
    text = json.dumps(corrector.to_json(), allow_nan=False)
    read_back = corrector_from_json(json.loads(text))
    for class_index in range(NUM_CLASSES):
        scores = corrector(on_grid(class_index))
        assert np.isfinite(scores).all()
        assert scores.min() >= 0
        assert scores.max() <= 1
        assert np.diff(scores).min() >= -1e-12, "never falls with the raw score"
        np.testing.assert_array_equal(read_back(on_grid(class_index)), scores)
        assert largest_jump(corrector, class_index) < 1e-4, "continuous in the raw score"
    assert corrector(Detections.of_scores([], [], num_classes=NUM_CLASSES)).shape == (0,)


def largest_jump(corrector: Corrector, class_index: int) -> float:
    """What is left of the steepest rise on the grid when its interval is halved, towards the steeper half, to nothing.

    A continuous corrector may be steep, so that no bound holds for the grid's own steps; only a jump stays.
    """
    values = corrector(on_grid(class_index))
    place = int(np.argmax(np.diff(values)))
    ends, ends_values = GRID[place : place + 2].copy(), values[place : place + 2].copy()
    for _ in range(43):
        middle = ends.mean()
        value = corrector(Detections.of_scores([class_index], [middle], num_classes=NUM_CLASSES))[0]
        side = int(value - ends_values[0] >= ends_values[1] - value)
        ends[side], ends_values[side] = middle, value
    return float(ends_values[1] - ends_values[0])


def test_a_jump_is_found() -> None:
    class Step:
        kind = "step"

        def __call__(self, detections: Detections) -> np.ndarray:
            return np.where(detections.raw_scores > 0.3141592, 0.6, 0.4) + 0.1 * detections.raw_scores

        def to_json(self) -> dict[str, object]:
            return {}

    assert largest_jump(Step(), 0) == pytest.approx(0.2, abs=1e-6)


@pytest.mark.parametrize(
    "kind", ["none", "ccece", "ccece_bins", "temperature", "isotonic", "isotonic_per_class", "norcal"]
)
@settings(max_examples=25, deadline=None)
@given(detections=any_detections())
def test_an_unseen_class_has_the_correction_of_all_together(kind: str, detections: Detections) -> None:
    """That is: of the same detections, were they all of one class."""
    corrector = fit_corrector(kind, detections, context=context())
    as_one = replace(detections, class_indices=np.zeros(len(detections), dtype=np.int32))
    expected = fit_corrector(kind, as_one, context=context())(on_grid(0))
    for unseen in set(range(NUM_CLASSES)) - set(detections.scored().class_indices.tolist()):
        np.testing.assert_allclose(corrector(on_grid(unseen)), expected, atol=1e-9)


@pytest.mark.parametrize("kind", CORRECTOR_KINDS)
@pytest.mark.parametrize("outcome", [0, 1, 2])
@pytest.mark.parametrize("score", [0.0, 0.4, 1.0])
def test_one_detection_is_enough(kind: str, outcome: int, score: float) -> None:
    one = replace(Detections.of_scores([2], [score], num_classes=NUM_CLASSES), outcomes=np.array([outcome], np.int8))
    corrector = fit_corrector(kind, one, context=context(with_similarity=True))
    for class_index in range(NUM_CLASSES):
        scores = corrector(on_grid(class_index))
        assert np.isfinite(scores).all()
        assert np.diff(scores).min() >= -1e-12


@pytest.mark.parametrize("kind", CORRECTOR_KINDS)
def test_without_a_detection_scores_stay(kind: str) -> None:
    corrector = fit_corrector(kind, Detections.empty(NUM_CLASSES), context=context(with_similarity=True))
    np.testing.assert_allclose(corrector(on_grid(0)), GRID, atol=2e-6)


@pytest.mark.parametrize("kind", ["temperature", "isotonic", "hierarchical", "auto"])
def test_continuous_and_without_ties(kind: str) -> None:
    corrector = fit_corrector(kind, simulated(0, 3000, overconfident), context=context())
    scores = np.linspace(0.01, 0.99, 20_001)
    found = corrector(Detections.of_scores(np.full(len(scores), 3), scores, num_classes=NUM_CLASSES))
    assert np.diff(found).min() > 0
    assert np.diff(found).max() < 0.01


@pytest.mark.parametrize("kind", ["isotonic", "hierarchical", "auto"])
def test_corrects_overconfidence_on_unseen_images(kind: str) -> None:
    corrector = fit_corrector(kind, simulated(0, 2500, overconfident), context=context())
    unseen = simulated(1, 4000, overconfident)
    before = ece(ReliabilityBins.from_detections(unseen, 15))
    after = ece(ReliabilityBins.from_detections(unseen, 15, corrector(unseen)))
    assert before > 0.1
    assert after < 0.4 * before


def test_ignored_detections_do_not_count() -> None:
    detections = simulated(0, 500, overconfident)
    ignored = Detections.concat([detections, simulated(1, 500, calibrated)])
    ignored.known_outcomes[500:] = 2
    for kind in CORRECTOR_KINDS:
        one, other = (fit_corrector(kind, part, context=context()) for part in (detections, ignored))
        np.testing.assert_allclose(one(on_grid(4)), other(on_grid(4)), err_msg=kind)


def test_ccece_subtracts_the_class_bias() -> None:
    detections = Detections(
        num_classes=NUM_CLASSES,
        class_indices=np.array([0, 0, 1], dtype=np.int32),
        raw_scores=np.array([0.8, 0.6, 0.5]),
        image_indices=np.arange(3),
        outcomes=np.array([1, 0, 1], dtype=np.int8),
        weights=np.array([1.0, 3.0, 1.0]),
    )
    corrector = ClassBiasCorrector.fit(detections, context())
    # Class 0: (.8 - 1 + 3 * .6) / 4; class 1: .5 - 1; the others: all together, (1.6 - .5) / 5.
    np.testing.assert_allclose(corrector.bias, [0.4, -0.5, 0.22, 0.22, 0.22, 0.22])
    scores = np.array([0.9, 0.1, 0.7])
    expected = 0.999 * np.array([0.5, 0, 1]) + 0.001 * scores
    np.testing.assert_allclose(corrector(Detections.of_scores([0, 0, 1], scores, num_classes=6)), expected)


def test_ccece_bins_by_hand() -> None:
    detections = Detections(
        num_classes=2,
        class_indices=np.array([0, 0, 0, 1], dtype=np.int32),
        raw_scores=np.array([0.2, 0.6, 0.8, 0.3]),
        image_indices=np.arange(4),
        outcomes=np.array([0, 1, 0, 1], dtype=np.int8),
        weights=np.array([1.0, 1.0, 1.0, 3.0]),
    )
    curves = CellBiasCorrector.fit(detections, FitContext(num_bins=2, frequency_groups=np.array(["r", "r"]))).curves
    # Bin means over all: (.2 + 3 * .3) / 4 = .275 and .7. Class 0: bias .2 and .7 - 1/2; class 1: .3 - 1 in the first
    # bin, and its own -.7 again in the second, where it has nothing.
    np.testing.assert_allclose(curves.knots[1:-1], [0.275, 0.7])
    np.testing.assert_allclose(curves.values[0, 1:-1], [0.075, 0.5], atol=1e-3)
    np.testing.assert_allclose(curves.values[1, 1:-1], [0.975, 1.0], atol=1e-3)


def test_isotonic_per_class_is_isotonic_on_each_class() -> None:
    detections = simulated(0, 800, overconfident)
    corrector = ClassIsotonicCorrector.fit(detections, context())
    for class_index in range(5):
        alone = IsotonicCorrector.fit(detections.subset(detections.class_indices == class_index), context())
        np.testing.assert_array_equal(corrector(on_grid(class_index)), alone(on_grid(class_index)))
    together = IsotonicCorrector.fit(detections, context())
    np.testing.assert_array_equal(corrector(on_grid(5)), together(on_grid(5)))
    mixed = simulated(1, 50, overconfident)
    one_by_one = [corrector(mixed.subset(np.array([row])))[0] for row in range(50)]
    np.testing.assert_array_equal(corrector(mixed), one_by_one)


def test_norcal_is_the_papers_formula_on_two_classes_of_which_one_is_background() -> None:
    counts = np.array([1, 10, 100, 1000, 10, 0])
    given_counts = replace(context(), num_train_images=counts)
    corrector = NorCalCorrector.fit(simulated(0, 10, calibrated), given_counts, gamma=0.5)
    divisors = counts[:5] ** 0.5
    divisors /= np.exp(np.log(divisors).mean())
    for class_index, divisor in enumerate(divisors):
        exps = np.stack([GRID[1:-1], 1 - GRID[1:-1]])  # softmax of (class, background)
        exps[0] /= divisor
        np.testing.assert_allclose(corrector(on_grid(class_index))[1:-1], (exps / exps.sum(axis=0))[0])
    np.testing.assert_allclose(corrector(on_grid(5))[1:-1], GRID[1:-1], err_msg="no training image")


def test_marginal_meets_the_totals() -> None:
    detections = simulated(0, 800, overconfident)
    detections = replace(detections, weights=np.random.default_rng(0).uniform(1, 5, 800))
    corrector = MarginalCorrector.fit(detections, context(), prior_count=0)
    expected = np.bincount(detections.class_indices, detections.weights * detections.is_correct)
    found = np.bincount(detections.class_indices, detections.weights * corrector(detections))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    unseen = replace(detections, class_indices=np.full(800, 5, dtype=np.int32))
    assert unseen.weights @ corrector(unseen) == pytest.approx(expected.sum()), "of all classes together"
    odds = logit(corrector(on_grid(4))[100:900]) - logit(GRID[100:900])
    np.testing.assert_allclose(odds, corrector.shifts[4], atol=1e-9)


def test_marginal_shrinks_few_detections() -> None:
    """30 wrong ones of score .8 and 30 of the prior, which says about .8: .4."""
    detections = simulated(0, 5000, calibrated)
    few = Detections(
        num_classes=NUM_CLASSES,
        class_indices=np.full(30, 5, dtype=np.int32),
        raw_scores=np.full(30, 0.8),
        image_indices=np.arange(30),
        outcomes=np.zeros(30, dtype=np.int8),
        weights=np.ones(30),
    )
    both = Detections.concat([detections, few])
    corrector = MarginalCorrector.fit(both, context(), prior_count=30)
    assert corrector(few)[0] == pytest.approx(0.4, abs=0.02)
    assert MarginalCorrector.fit(both, context(), prior_count=0)(few)[0] < 1e-6


def test_temperature_finds_the_true_one() -> None:
    detections = simulated(0, 40_000, lambda classes, scores: expit(logit(scores) / 1.7))
    assert TemperatureCorrector.fit(detections, context()).temperature == pytest.approx(1.7, abs=0.05)
    assert TemperatureCorrector(2.0)(on_grid(0))[500] == pytest.approx(0.5)


def test_isotonic_agrees_with_scikit_learn_at_its_knots() -> None:
    detections = simulated(0, 800, overconfident)
    weights = np.random.default_rng(0).uniform(1, 5, 800)
    detections = Detections(**(vars(detections) | {"weights": weights, "raw_scores": detections.raw_scores.round(2)}))
    corrector = IsotonicCorrector.fit(detections, context())
    theirs = IsotonicRegression().fit(detections.raw_scores, detections.is_correct, sample_weight=weights)
    # The mean of the scores of one step lies in the step, where both have its height but for the mixed-in slope.
    knots, values = corrector.curves.knots[1:-1], corrector.curves.values[0, 1:-1]
    steps = np.unique(theirs.predict(detections.raw_scores))
    assert len(knots) == len(steps)
    np.testing.assert_allclose(values, theirs.predict(knots), atol=6e-3)


def test_centring_on_steps_by_hand() -> None:
    detections = Detections(
        num_classes=1,
        class_indices=np.zeros(4, dtype=np.int32),
        raw_scores=np.array([0.2, 0.4, 0.6, 0.8]),
        image_indices=np.arange(4),
        outcomes=np.array([0, 1, 0, 1], dtype=np.int8),
        weights=np.ones(4),
    )
    curves = IsotonicCorrector.fit(detections, FitContext(num_bins=5, frequency_groups=np.array(["r"]))).curves
    # Steps: 0 at .2; 1/2 at the mean of .4 and .6; 1 at .8; kept 1/6 from 0 and 1.
    np.testing.assert_allclose(curves.knots, [0, 0.2, 0.5, 0.8, 1])
    np.testing.assert_allclose(curves.values[0], [0, 1 / 6, 0.5, 5 / 6, 1], atol=1.1e-3)


def test_hierarchical_shrinks_few_samples_to_the_parent() -> None:
    """One wrong detection of class 5 at a score where the others are right."""
    detections = simulated(0, 4000, calibrated)
    one = Detections.of_scores([5], [0.9], num_classes=NUM_CLASSES)
    one = Detections(**(vars(one) | {"outcomes": np.zeros(1, dtype=np.int8), "image_indices": np.array([99])}))
    both = Detections.concat([detections, one])
    without, with_one = (fit_corrector("hierarchical", part, context=context()) for part in (detections, both))
    before, after = float(without(one)[0]), float(with_one(one)[0])
    assert before == pytest.approx(0.9, abs=0.05)
    assert before - 0.15 < after < before, "it moves, but little"
    naive = fit_corrector("ccece", both, context=context())
    assert naive(one)[0] == pytest.approx(0.0009), "what the per-class bias makes of it"


def test_hierarchical_gives_an_unseen_class_its_group() -> None:
    """Group f (classes 3 to 5) is right half as often as it says, the others are calibrated; class 5 is never seen."""
    detections = simulated(0, 20_000, lambda classes, scores: np.where(classes >= 3, scores / 2, scores))
    groups = FitContext(num_bins=10, frequency_groups=np.array(["r", "r", "c", "f", "f", "f"]))
    corrector = fit_corrector("hierarchical", detections, context=groups)
    scores = [float(corrector(on_grid(row))[800]) for row in range(NUM_CLASSES)]
    assert scores[2] == pytest.approx(0.8, abs=0.08)
    assert scores[4] == pytest.approx(0.4, abs=0.08)
    assert scores[5] == pytest.approx(0.4, abs=0.08)


def test_hierarchical_borrows_from_similar_classes() -> None:
    """Class 0 is rare; class 4, of another group, is its look-alike and is wrong more often than the rest."""
    detections = simulated(0, 20_000, lambda classes, scores: np.where(np.isin(classes, [0, 4]), scores / 3, scores))
    similarity = np.eye(NUM_CLASSES)
    similarity[0, 4] = similarity[4, 0] = similarity[2, 3] = similarity[3, 2] = 0.95
    few = detections.subset((detections.class_indices != 0) | (np.arange(len(detections)) % 40 == 0))
    alone = fit_corrector("hierarchical", few, context=context())
    borrowing = fit_corrector(
        "hierarchical", few, context=FitContext(num_bins=10, frequency_groups=GROUPS, similarity=similarity)
    )
    errors = [np.abs(one(on_grid(0))[100:900] - GRID[100:900] / 3).mean() for one in (alone, borrowing)]
    assert errors[1] < 0.7 * errors[0]


def test_hierarchical_believes_many_samples() -> None:
    detections = simulated(0, 60_000, lambda classes, scores: np.where(classes == 3, scores**3, scores))
    corrector = HierarchicalCorrector.fit(detections, context())
    assert np.abs(corrector(on_grid(3))[100:900] - GRID[100:900] ** 3).max() < 0.06
    assert np.abs(corrector(on_grid(4))[100:900] - GRID[100:900]).max() < 0.06
    assert corrector.num_effective[5] == 0


def test_saturated_scores_are_corrected_too() -> None:
    """A detector that always says 1.0 and is right half of the time."""
    rng = np.random.default_rng(0)
    detections = Detections(
        num_classes=NUM_CLASSES,
        class_indices=np.zeros(1000, dtype=np.int32),
        raw_scores=np.ones(1000),
        image_indices=np.arange(1000),
        outcomes=(rng.random(1000) < 0.5).astype(np.int8),
        weights=np.ones(1000),
    )
    for kind in ("isotonic", "hierarchical", "auto"):
        found = fit_corrector(kind, detections, context=context())(detections)
        assert found[0] == pytest.approx(0.5, abs=0.06), kind


def test_auto_leaves_what_is_calibrated() -> None:
    """Noise alone must not win; over seeds, a correction may be chosen now and then, but must not cost anything."""
    chosen = [fit_corrector("auto", simulated(seed, 600, calibrated), context=context()) for seed in range(12)]
    kinds = [corrector.chosen.kind for corrector in chosen if isinstance(corrector, AutoCorrector)]
    assert kinds.count("none") >= 9
    unseen = simulated(100, 5000, calibrated)
    raw = nll(unseen.raw_scores, unseen.is_correct)
    assert max(nll(one(unseen), unseen.is_correct) for one in chosen) < raw + 0.02


def test_auto_says_what_it_tried() -> None:
    corrector = fit_corrector("auto", simulated(0, 3000, overconfident), context=context())
    assert isinstance(corrector, AutoCorrector)
    assert set(corrector.trials) == set(FAMILIES)
    best = min(corrector.trials, key=lambda kind: corrector.trials[kind].nll)
    assert corrector.chosen.kind == best != "none"
    assert corrector.trials["none"].gain == 0
    assert corrector.to_json()["cross_validation"][best]["gain"] > 0


def test_auto_chooses_only_what_holds_itself_back_where_detections_are_few() -> None:
    """Hardly any detection is right: any family would gain; of 200 only the careful ones may be chosen."""
    few = simulated(0, 200, lambda classes, scores: np.full(len(scores), 0.02))
    chosen = fit_corrector("auto", few, context=context())
    assert isinstance(chosen, AutoCorrector)
    assert chosen.trials["isotonic"].gain > 4 * chosen.trials["isotonic"].gain_error
    assert chosen.chosen.kind in HELD_BACK


def test_some_images_are_whole_and_no_more_than_asked() -> None:
    detections = simulated(0, 500, calibrated, num_images=40)
    drawn = some_images(detections, 100, seed=0)
    assert 50 < len(drawn) <= 100
    for image in np.unique(drawn.image_indices):
        assert (drawn.image_indices == image).sum() == (detections.image_indices == image).sum()
    assert len(some_images(detections, 500, seed=0)) == 500
    assert len(np.unique(some_images(detections, 1, seed=0).image_indices)) == 1


def test_folds_never_split_an_image() -> None:
    images = np.random.default_rng(0).integers(0, 23, 500)
    folds = image_folds(images, seed=3)
    assert set(folds) == set(range(5))
    assert all(len(set(folds[images == image])) == 1 for image in set(images))
    sizes = [len(set(images[folds == fold])) for fold in range(5)]
    assert max(sizes) - min(sizes) <= 1
    np.testing.assert_array_equal(folds, image_folds(images, seed=3))
    assert (folds != image_folds(images, seed=4)).any()


def test_out_of_fold_scores_never_see_their_fold() -> None:
    detections = simulated(0, 300, calibrated, num_images=20)
    folds = image_folds(detections.image_indices, seed=0)
    seen: list[set[int]] = []

    def fit(part: Detections) -> ClassBiasCorrector:
        seen.append(set(part.image_indices.tolist()))
        return ClassBiasCorrector.fit(part, context())

    scores = out_of_fold_scores(detections, folds, fit)
    for fold in range(5):
        held_out = detections.subset(folds == fold)
        assert not seen[fold] & set(held_out.image_indices.tolist())
        expected = ClassBiasCorrector.fit(detections.subset(folds != fold), context())(held_out)
        np.testing.assert_array_equal(scores[folds == fold], expected)


def test_curves_are_continued_on_lines_through_the_corners() -> None:
    curves = curves_through(np.array([0.5, 0.9]), np.array([[0.2, 0.45], [0.8, 0.99]]))
    rows, scores = np.array([0, 0, 1, 1]), np.array([0.0, 1.0, 0.0, 1.0])
    # Row 0: below by the line from (1, 1): 1 - .8 / .5 < 0, so 0; above .45 / .9. Row 1: 1 - .2 / .5; .99 / .9 > 1.
    np.testing.assert_allclose(curves(rows, scores), [0.0, 0.5, 0.6, 1.0], atol=1e-3)


def test_rising_pools_violators() -> None:
    # 3 and 1 pool to (2 * 3 + 1 * 1) / 3 with weights 2 and 1.
    np.testing.assert_allclose(
        rising(np.array([[3.0, 1, 4], [1, 2, 3]]), np.array([[2.0, 1, 1], [1, 1, 1]])), [[7 / 3, 7 / 3, 4], [1, 2, 3]]
    )


def test_bad_json_and_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="must be one of none, ccece"):
        fit_corrector("platt", Detections.empty(2), context=context())
    with pytest.raises(ValueError, match="kind must be one of none, ccece"):
        corrector_from_json({"kind": "platt"})
    with pytest.raises(ValueError, match="'temperature' lacks"):
        corrector_from_json({"kind": "temperature"})
    corrector = fit_corrector("hierarchical", Detections.empty(NUM_CLASSES), context=context())
    with pytest.raises(ValueError, match="fitted on 6 classes, the detections are of 7"):
        corrector(Detections.of_scores([6], [0.5], num_classes=7))


def test_figures_on_a_real_detector(shared_data: Callable[[str], Path]) -> None:
    """Cross-validated NLL where score >= .05: the design page's figures, all / classes in at most 5 images."""
    folder = shared_data("external_detector")
    annotated = read_annotations(str(folder / "instances.json"))
    detections = read_detections(str(folder / "results.json"), annotated)
    detections = detections.subset(detections.raw_scores >= 0.05).scored()
    assert len(detections) == 8759
    real_context = FitContext(num_bins=15, frequency_groups=annotated.frequency_groups())
    is_rare = (annotated.class_image_counts() <= 5)[detections.class_indices]
    folds = image_folds(detections.image_indices, seed=0)
    at_most = {"none": (0.350, 0.336), "temperature": (0.340, 0.318), "isotonic": (0.336, 0.320)}
    at_most["hierarchical"] = (0.3375, 0.3185)
    for kind, (limit, rare_limit) in at_most.items():
        scores = out_of_fold_scores(detections, folds, partial(fit_corrector, kind, context=real_context))
        assert nll(scores, detections.is_correct) < limit, kind
        assert nll(scores[is_rare], detections.is_correct[is_rare]) < rare_limit, kind
