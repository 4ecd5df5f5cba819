"""Each family of correctors against its formula by hand."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression

from raylabel.calibration import Detections, FitContext, ReliabilityBins
from raylabel.calibration.correctors.ccece_bins import CellBiasCorrector
from raylabel.calibration.correctors.class_bias import ClassBiasCorrector
from raylabel.calibration.correctors.isotonic import ClassIsotonicCorrector, IsotonicCorrector
from raylabel.calibration.correctors.marginal import MarginalCorrector, _fit_pool_shifts
from raylabel.calibration.correctors.norcal import NorCalCorrector
from raylabel.calibration.correctors.temperature import TemperatureCorrector
from raylabel.calibration.shift.pool_accuracy import PoolAccuracy
from simulated_detections import GRID, NUM_CLASSES, calibrated, context, on_grid, overconfident, simulated


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
    # Class 0: (0.8 - 1 + 3 * 0.6) / 4; class 1: 0.5 - 1; the others: all together, (1.6 - 0.5) / 5.
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
    # Bin means over all: (0.2 + 3 * 0.3) / 4 = 0.275 and 0.7. Class 0: bias 0.2 and 0.7 - 1/2.
    # Class 1: 0.3 - 1 in the first bin. Its second bin is empty and gets the class's -0.7.
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
    assert unseen.weights @ corrector(unseen) == pytest.approx(expected.sum()), "the shift of all classes together"
    odds = logit(corrector(on_grid(4))[100:900]) - logit(GRID[100:900])
    np.testing.assert_allclose(odds, corrector.shifts[4], atol=1e-9)


def test_marginal_shrinks_few_detections() -> None:
    """30 wrong detections of score 0.8, and 30 of the prior at about 0.8, give 0.4."""
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
    # The mean score of a step lies in the step. There both have its height, except for the mixed-in slope.
    knots, values = corrector.curves.knots[1:-1], corrector.curves.values[0, 1:-1]
    steps = np.unique(theirs.predict(detections.raw_scores))
    assert len(knots) == len(steps)
    np.testing.assert_allclose(values, theirs.predict(knots), atol=6e-3)


def test_a_pools_total_is_worth_as_many_detections_as_its_interval_says() -> None:
    """The pool's accuracy is 0.4 +- 1.96 * sqrt(0.4 * 0.6 / 31), as 30 detections would tell. The prior adds 30."""
    histogram = ReliabilityBins.zeros(2, 10)
    histogram.num[0, 7], histogram.sum_confidence[0, 7] = 200.0, 160.0
    half_width = 1.96 * np.sqrt(0.4 * 0.6 / 31)
    pool = PoolAccuracy(
        accuracy=np.array([0.4, np.nan]),
        low=np.array([0.4 - half_width, np.nan]),
        high=np.array([0.4 + half_width, np.nan]),
    )
    shifts = _fit_pool_shifts(histogram, pool, np.array([0.0, 0.7]), prior_count=30)
    # (30 * 0.4 + 30 * 0.8) / 60 = 0.6 of the pool's detections of score 0.8 are right.
    np.testing.assert_allclose(shifts, [logit(0.6) - logit(0.8), 0.7], atol=1e-6)


def test_temperature_and_marginal_by_hand_for_few() -> None:
    """30 detections of score 0.8, of which 15 are right."""
    few = Detections(
        num_classes=NUM_CLASSES,
        class_indices=np.zeros(30, dtype=np.int32),
        raw_scores=np.full(30, 0.8),
        image_indices=np.arange(30),
        outcomes=(np.arange(30) < 15).astype(np.int8),
        weights=np.ones(30),
    )
    # The prior of all classes gives (15 + 30 * 0.8) / 60 = 0.65, and the class gives (15 + 30 * 0.65) / 60.
    assert MarginalCorrector.fit(few, context())(few)[0] == pytest.approx(0.575, abs=1e-6)
    # At temperature t the slope of the log likelihood meets that of the prior N(0, 1) of log t.
    temperature = TemperatureCorrector.fit(few, context()).temperature
    score = expit(logit(0.8) / temperature)
    assert (15 - 30 * score) * logit(0.8) / temperature == pytest.approx(-np.log(temperature), abs=1e-3)


def test_marginal_weighs_scores_and_outcomes_by_hand() -> None:
    """10 right ones of weight 1 score 0.9, and 10 wrong ones of weight 3 score 0.5. Their effective number is 16."""
    is_right = np.arange(20) < 10
    detections = Detections(
        num_classes=NUM_CLASSES,
        class_indices=np.zeros(20, dtype=np.int32),
        raw_scores=np.where(is_right, 0.9, 0.5),
        image_indices=np.arange(20),
        outcomes=is_right.astype(np.int8),
        weights=np.where(is_right, 1.0, 3.0),
    )
    corrector = MarginalCorrector.fit(detections, context())
    # The mean score is (10 * 0.9 + 30 * 0.5) / 40 = 0.6, and a quarter is right. All together: 0.478, the class: 0.399.
    overall = (16 * 0.25 + 30 * 0.6) / 46
    of_class = (16 * 0.25 + 30 * overall) / 46
    assert np.average(corrector(detections), weights=detections.weights) == pytest.approx(of_class, abs=1e-6)
    unseen = replace(detections, class_indices=np.full(20, 5, dtype=np.int32))
    assert np.average(corrector(unseen), weights=detections.weights) == pytest.approx(overall, abs=1e-6)
