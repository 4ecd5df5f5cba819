"""Metrics against hand-made numbers, scikit-learn, a plain reference and simulation."""

import numpy as np
import pytest
from scipy.stats import beta
from sklearn.metrics import brier_score_loss, log_loss

from raylabel.calibration import (
    Detections,
    ReliabilityBins,
    brier,
    ccece,
    class_bias,
    class_ccece,
    class_ccece_debiased,
    credible_interval,
    ece,
    effective_count,
    group_masks,
    mean_bias,
    nll,
)


def made(classes: list[int], scores: list[float], correct: list[int], weights: list[float] | None = None) -> Detections:
    return Detections(
        num_classes=3,
        class_indices=np.array(classes, dtype=np.int32),
        raw_scores=np.array(scores, dtype=np.float64),
        image_indices=np.arange(len(classes)),
        outcomes=np.array(correct, dtype=np.int8),
        weights=np.ones(len(classes)) if weights is None else np.array(weights),
    )


def simulated(seed: int, num: int, num_classes: int = 3) -> Detections:
    """Perfectly calibrated."""
    rng = np.random.default_rng(seed)
    scores = rng.random(num)
    return Detections(
        num_classes=num_classes,
        class_indices=rng.integers(0, num_classes, num).astype(np.int32),
        raw_scores=scores,
        image_indices=np.arange(num),
        outcomes=(rng.random(num) < scores).astype(np.int8),
        weights=np.ones(num),
    )


def test_bias_and_ccece_by_hand() -> None:
    # Class 0, two bins: .4 and .2 of which one is correct (mean .3, accuracy .5), and .9 that is wrong.
    # bias = (.4 + .2 + .9 - 1) / 3 = 1/6; CCECE = (|.6 - 1| + |.9 - 0|) / 3 = 1.3 / 3.
    # Class 1: one of .8, correct: bias -.2, CCECE .2. Class 2: none.
    bins = ReliabilityBins.from_detections(made([0, 0, 0, 1], [0.4, 0.2, 0.9, 0.8], [1, 0, 0, 1]), 2)
    np.testing.assert_allclose(class_bias(bins), [1 / 6, -0.2, np.nan])
    np.testing.assert_allclose(class_ccece(bins), [1.3 / 3, 0.2, np.nan])
    assert ccece(bins) == pytest.approx((1.3 / 3 + 0.2) / 2)
    assert ccece(bins, min_count=2) == pytest.approx(1.3 / 3)
    assert mean_bias(bins) == pytest.approx((1 / 6 - 0.2) / 2)
    with pytest.raises(ValueError, match="no class has at least 4 detections"):
        ccece(bins, min_count=4)
    # All classes as one: bin 1 as before, bin 2 holds .9 wrong and .8 right: |1.7 - 1|.
    assert ece(bins) == pytest.approx((0.4 + 0.7) / 4)


def test_no_detection_has_no_figure() -> None:
    empty = ReliabilityBins.zeros(3, 5)
    assert np.isnan(class_ccece(empty)).all()
    assert np.isnan(class_ccece_debiased(empty)).all()
    for figure in (ece, ccece, mean_bias):
        with pytest.raises(ValueError, match="no class"):
            figure(empty)
    with pytest.raises(ValueError, match="no detection"):
        nll(np.zeros(0), np.zeros(0, dtype=bool))


def test_a_weight_of_three_counts_as_three() -> None:
    weighted = made([0, 1], [0.7, 0.3], [1, 0], [3.0, 1.0])
    repeated = made([0, 0, 0, 1], [0.7, 0.7, 0.7, 0.3], [1, 1, 1, 0])
    for figure in (nll, brier):
        assert figure(weighted.raw_scores, weighted.is_correct, weighted.weights) == pytest.approx(
            figure(repeated.raw_scores, repeated.is_correct)
        )
    assert ece(ReliabilityBins.from_detections(weighted, 5)) == pytest.approx(
        ece(ReliabilityBins.from_detections(repeated, 5))
    )


def test_proper_scores_equal_scikit_learn() -> None:
    detections = simulated(0, 500)
    weights = np.random.default_rng(1).uniform(0.5, 4, 500)
    scores, correct = detections.raw_scores, detections.is_correct
    assert nll(scores, correct, weights) == pytest.approx(log_loss(correct, scores, sample_weight=weights))
    assert brier(scores, correct, weights) == pytest.approx(brier_score_loss(correct, scores, sample_weight=weights))


def test_a_certain_mistake_is_finite() -> None:
    assert nll(np.array([1.0]), np.array([False])) == pytest.approx(-np.log(1e-6))


def test_ece_equals_a_plain_reference() -> None:
    detections = simulated(2, 400)
    scores, correct = detections.raw_scores, detections.is_correct
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (scores > low) & (scores <= low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(scores[inside].mean() - correct[inside].mean())
    assert ece(ReliabilityBins.from_detections(detections, 15)) == pytest.approx(expected, abs=1e-6)


def test_ece_equals_torchmetrics() -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    torch = pytest.importorskip("torch")
    detections = simulated(3, 400)
    theirs = functional.binary_calibration_error(
        torch.tensor(detections.raw_scores), torch.tensor(detections.is_correct.astype(int)), n_bins=15, norm="l1"
    )
    assert ece(ReliabilityBins.from_detections(detections, 15)) == pytest.approx(float(theirs), abs=1e-5)


def test_debiasing_takes_off_what_chance_adds() -> None:
    """Perfectly calibrated, so the truth is 0 (up to curvature within a bin)."""
    trials = [ReliabilityBins.from_detections(simulated(seed, 120), 10) for seed in range(40)]
    plain, debiased = (np.mean([ccece(bins, debiased=flag) for bins in trials]) for flag in (False, True))
    assert plain > 0.15
    assert debiased < 0.6 * plain


def test_debiasing_leaves_what_many_samples_show() -> None:
    rng = np.random.default_rng(0)
    detections = made([0] * 20_000, [0.8] * 20_000, (rng.random(20_000) < 0.5).astype(int).tolist())
    bins = ReliabilityBins.from_detections(detections, 10)
    assert class_ccece_debiased(bins)[0] == pytest.approx(class_ccece(bins)[0], abs=1e-6)


def test_credible_interval_is_jeffreys() -> None:
    low, high = credible_interval(np.array([0.25, 0.0, 1.0, np.nan]), np.array([8.0, 3.0, 3.0, 0.0]))
    assert low[0] == pytest.approx(beta.ppf(0.025, 2.5, 6.5))
    assert high[0] == pytest.approx(beta.ppf(0.975, 2.5, 6.5))
    assert low[1] == 0.0
    assert high[2] == 1.0
    assert np.isnan(low[3])


def test_credible_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    low, high = credible_interval(rng.binomial(20, 0.3, 4000) / 20, np.full(4000, 20.0))
    assert 0.93 < ((low <= 0.3) & (high >= 0.3)).mean() < 0.98


def test_effective_count_is_kishs() -> None:
    detections = made([0, 0, 1, 1], [0.5] * 4, [1, 0, 1, 2], [1.0, 3.0, 2.0, 9.0])
    np.testing.assert_allclose(effective_count(detections), [16 / 10, 1.0, 0.0])


def test_groups_without_a_class_are_left_out() -> None:
    masks = group_masks(np.array(["r", "f", "r"]))
    assert {name: mask.tolist() for name, mask in masks.items()} == {
        "all": [True] * 3,
        "r": [True, False, True],
        "f": [False, True, False],
    }
