"""Figures over bins and proper scores: by hand, against other libraries, plain references and simulation."""

from typing import Any

import numpy as np
import pytest
from hotcoco import metrics as hotcoco_metrics
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, foldnorm
from sklearn.metrics import brier_score_loss, log_loss

from raylabel.calibration import Detections, ReliabilityBins
from raylabel.calibration.metrics import (
    ace,
    brier,
    ccece,
    class_ace,
    class_bias,
    class_ccece,
    class_ccece_debiased,
    class_mce,
    class_rmsce,
    credible_interval,
    ece,
    effective_count,
    group_masks,
    mce,
    mean_bias,
    nll,
    rmsce,
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
    """Generate perfectly calibrated detections."""
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
    # Class 0, two bins: 0.4 and 0.2 of which one is correct (mean 0.3, accuracy 0.5), and 0.9 that is wrong.
    # bias = (0.4 + 0.2 + 0.9 - 1) / 3 = 1/6; CCECE = (|0.6 - 1| + |0.9 - 0|) / 3 = 1.3 / 3.
    # Class 1: one of 0.8, correct: bias -0.2, CCECE 0.2. Class 2: none.
    bins = ReliabilityBins.from_detections(made([0, 0, 0, 1], [0.4, 0.2, 0.9, 0.8], [1, 0, 0, 1]), 2)
    np.testing.assert_allclose(class_bias(bins), [1 / 6, -0.2, np.nan])
    np.testing.assert_allclose(class_ccece(bins), [1.3 / 3, 0.2, np.nan])
    assert ccece(bins) == pytest.approx((1.3 / 3 + 0.2) / 2)
    assert ccece(bins, min_count=2) == pytest.approx(1.3 / 3)
    assert mean_bias(bins) == pytest.approx((1 / 6 - 0.2) / 2)
    with pytest.raises(ValueError, match="no class has at least 4 detections"):
        ccece(bins, min_count=4)
    # All classes as one: bin 1 as before, bin 2 holds 0.9 wrong and 0.8 right: |1.7 - 1|.
    assert ece(bins) == pytest.approx((0.4 + 0.7) / 4)


def test_no_detection_has_no_figure() -> None:
    empty = ReliabilityBins.zeros(3, 5)
    for figure in (ece, mce):
        with pytest.raises(ValueError, match=r"no (class|bin) has a detection"):
            figure(empty)
    assert np.isnan(class_ccece(empty)).all()
    assert np.isnan(class_ccece_debiased(empty)).all()
    for per_class in (class_mce, class_ace, class_rmsce):
        assert np.isnan(per_class(empty)).all()
    for figure in (ece, ccece, mean_bias):
        with pytest.raises(ValueError, match="no class"):
            figure(empty)
    for figure, message in ((mce, "no bin"), (ace, "no detection"), (rmsce, "no detection")):
        with pytest.raises(ValueError, match=message):
            figure(empty)
    for score in (nll, brier):
        with pytest.raises(ValueError, match="no detection"):
            score(np.zeros(0), np.zeros(0, dtype=bool))
        with pytest.raises(ValueError, match="no detection"):
            score(np.array([0.3]), np.array([True]), np.zeros(1))


def test_all_ignored_is_no_detection() -> None:
    bins = ReliabilityBins.from_detections(made([0, 1], [0.4, 0.9], [2, 2]), 5)
    assert np.isnan(class_mce(bins)).all()
    with pytest.raises(ValueError, match="no bin"):
        mce(bins)


def test_mce_ace_and_rmsce_by_hand() -> None:
    # Bins of width 1/2. Class 0: 0.4 and 0.2 of which one is right, gap |0.3 - 0.5| = 0.2; 0.9 wrong, gap 0.9.
    # Class 1: 0.8 right, gap 0.2, of weight 2. Class 2: none.
    bins = ReliabilityBins.from_detections(made([0, 0, 0, 1], [0.4, 0.2, 0.9, 0.8], [1, 0, 0, 1], [1, 1, 1, 2]), 2)
    np.testing.assert_allclose(class_mce(bins), [0.9, 0.2, np.nan])
    np.testing.assert_allclose(class_mce(bins, min_count=2), [0.2, 0.2, np.nan])
    np.testing.assert_allclose(class_mce(bins, min_count=3), [np.nan] * 3)
    np.testing.assert_allclose(class_ace(bins), [(0.2 + 0.9) / 2, 0.2, np.nan])
    np.testing.assert_allclose(class_rmsce(bins), [np.sqrt((2 * 0.2**2 + 0.9**2) / 3), 0.2, np.nan])
    # Pooled: the lower bin as before; the upper has weight 3, confidence 2.5 / 3, accuracy 2 / 3, so gap 0.5 / 3.
    assert mce(bins) == pytest.approx(0.2)
    assert mce(bins, min_count=3) == pytest.approx(0.5 / 3)
    assert ace(bins) == pytest.approx((0.2 + 0.5 / 3) / 2)
    assert rmsce(bins) == pytest.approx(np.sqrt((2 * 0.2**2 + 3 * (0.5 / 3) ** 2) / 5))


def test_debiased_rmsce_by_hand() -> None:
    # Four of 0.9, two right: square 0.4^2 less 0.5 * 0.5 / 3; one alone in its bin says nothing: 4/5 of that.
    bins = ReliabilityBins.from_detections(made([0] * 5, [0.9, 0.9, 0.9, 0.9, 0.1], [1, 1, 0, 0, 1]), 2)
    assert rmsce(bins, debiased=True) == pytest.approx(np.sqrt(0.8 * (0.16 - 0.25 / 3)))
    # Two of 0.5, one right: 0 less 0.25 / 1 is negative, so 0.
    bins = ReliabilityBins.from_detections(made([0, 0], [0.5, 0.5], [1, 0]), 2)
    assert rmsce(bins, debiased=True) == 0.0


def test_debiased_square_is_unbiased() -> None:
    """Scores 0.5, 0.6 with accuracies 0.5, 0.8 have a true square of 0.2^2 / 2. Each draw has 30 samples of each."""
    rng = np.random.default_rng(0)
    scores = np.repeat([0.5, 0.6], 30)
    squares = []
    for _ in range(3000):
        correct = rng.random(60) < np.repeat([0.5, 0.8], 30)
        bins = ReliabilityBins.from_detections(made([0] * 60, scores.tolist(), correct.astype(int).tolist()), 10)
        squares.append([rmsce(bins) ** 2, rmsce(bins, debiased=True) ** 2])
    plain, debiased = np.mean(squares, axis=0)
    assert plain > 0.02 + 0.005
    assert debiased == pytest.approx(0.02, abs=0.001)


def test_wrong_arrays_are_refused() -> None:
    for score in (nll, brier):
        with pytest.raises(ValueError, match=r"is_correct must have shape \(2,\)"):
            score(np.array([0.1, 0.2]), np.array([True]))
        with pytest.raises(ValueError, match=r"weights must have shape \(2,\)"):
            score(np.array([0.1, 0.2]), np.array([True, False]), np.ones(3))
        with pytest.raises(ValueError, match=r"scores must be in \[0, 1\], got -3 to 0.2"):
            score(np.array([-3, 0.2]), np.array([True, False]))
        with pytest.raises(ValueError, match="scores must be finite"):
            score(np.array([np.nan, 0.2]), np.array([True, False]))
        with pytest.raises(ValueError, match="weights must be >= 0, got -1"):
            score(np.array([0.1, 0.2]), np.array([True, False]), np.array([1.0, -1.0]))
        with pytest.raises(ValueError, match="leave ignored detections out"):
            score(np.array([0.1, 0.2]), np.array([1, 2]))
        with pytest.raises(ValueError, match="scores must have shape"):
            score(np.array([[0.1, 0.2]]), np.array([[True, False]]))


FIGURES = (ece, mce, ace, rmsce)


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 20))
def test_order_of_the_errors(seed: int, num: int, num_bins: int) -> None:
    """|bias| <= ECE <= RMSCE <= MCE <= 1 and ACE <= MCE. Debiasing never adds. Ignored detections change nothing."""
    detections = simulated(seed, num)
    rng = np.random.default_rng(seed)
    detections = made(
        detections.class_indices.tolist(),
        detections.raw_scores.tolist(),
        rng.integers(0, 3, num).tolist(),
        rng.choice([1.0, 2.5], num).tolist(),
    )
    bins = ReliabilityBins.from_detections(detections, num_bins)
    if not detections.is_scored.any():
        return
    slack = 1e-12
    bias = class_bias(bins.pooled())[0]
    assert abs(bias) <= ece(bins) + slack <= rmsce(bins) + 2 * slack <= mce(bins) + 3 * slack <= 1 + 4 * slack
    assert ace(bins) <= mce(bins) + slack
    assert ece(bins, debiased=True) <= ece(bins) + slack
    assert rmsce(bins, debiased=True) <= rmsce(bins) + slack
    assert np.nanmax(class_mce(bins)) >= np.nanmax(class_ccece(bins)) - slack
    without = ReliabilityBins.from_detections(detections.scored(), num_bins)
    assert [figure(bins) for figure in FIGURES] == pytest.approx([figure(without) for figure in FIGURES])


def test_a_weight_of_three_counts_as_three() -> None:
    weighted = made([0, 1], [0.7, 0.3], [1, 0], [3.0, 1.0])
    repeated = made([0, 0, 0, 1], [0.7, 0.7, 0.7, 0.3], [1, 1, 1, 0])
    for figure in (nll, brier):
        assert figure(weighted.raw_scores, weighted.is_correct, weighted.weights) == pytest.approx(
            figure(repeated.raw_scores, repeated.is_correct)
        )
    for over_bins in FIGURES:
        assert over_bins(ReliabilityBins.from_detections(weighted, 5)) == pytest.approx(
            over_bins(ReliabilityBins.from_detections(repeated, 5))
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


@pytest.mark.parametrize(("norm", "ours"), [("l1", ece), ("max", mce), ("l2", rmsce)])
def test_equals_torchmetrics(norm: str, ours: Any) -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    torch = pytest.importorskip("torch")
    detections = simulated(3, 400)
    theirs = functional.binary_calibration_error(
        torch.tensor(detections.raw_scores), torch.tensor(detections.is_correct.astype(int)), n_bins=15, norm=norm
    )
    assert ours(ReliabilityBins.from_detections(detections, 15)) == pytest.approx(float(theirs), abs=1e-5)


@pytest.mark.parametrize(("name", "ours"), [("ECE", ece), ("MCE", mce), ("ACE", ace)])
def test_equals_netcal(name: str, ours: Any) -> None:
    netcal = pytest.importorskip("netcal.metrics")
    for num, num_bins in ((400, 15), (12, 20)):
        detections = simulated(3, num)
        theirs = getattr(netcal, name)(bins=num_bins).measure(detections.raw_scores, detections.is_correct.astype(int))
        assert ours(ReliabilityBins.from_detections(detections, num_bins)) == pytest.approx(theirs, abs=2**-28)


def test_mce_min_count_equals_netcal() -> None:
    netcal = pytest.importorskip("netcal.metrics")
    detections = simulated(5, 60)
    bins = ReliabilityBins.from_detections(detections, 15)
    theirs = netcal.MCE(bins=15, sample_threshold=4).measure(detections.raw_scores, detections.is_correct.astype(int))
    assert mce(bins, min_count=4) == pytest.approx(theirs, abs=2**-28)
    assert mce(bins, min_count=4) < mce(bins), "the threshold matters here"


def test_ece_and_mce_equal_hotcoco() -> None:
    for num, num_bins in ((400, 15), (12, 20)):
        detections = simulated(4, num)
        bins = ReliabilityBins.from_detections(detections, num_bins)
        theirs = hotcoco_metrics.calibration_error(detections.raw_scores, detections.is_correct, n_bins=num_bins)
        assert (ece(bins), mce(bins)) == pytest.approx(theirs, abs=2**-28)


def test_an_edge_is_where_we_differ() -> None:
    """With two bins, our 0.5 shares a bin with 0.4, and theirs with 0.9."""
    detections = made([0, 0, 0], [0.4, 0.5, 0.9], [0, 1, 1])
    assert ece(ReliabilityBins.from_detections(detections, 2)) == pytest.approx((abs(0.9 - 1) + 0.1) / 3)
    theirs, _ = hotcoco_metrics.calibration_error(detections.raw_scores, detections.is_correct, n_bins=2)
    assert theirs == pytest.approx((0.4 + abs(1.4 - 2)) / 3)


def test_debiasing_takes_off_what_chance_adds() -> None:
    """For perfectly calibrated detections the truth is 0, up to curvature within a bin."""
    trials = [ReliabilityBins.from_detections(simulated(seed, 120), 10) for seed in range(40)]
    plain, debiased = (np.mean([ccece(bins, debiased=flag) for bins in trials]) for flag in (False, True))
    assert plain > 0.15
    assert debiased < 0.6 * plain


def test_debiased_ece_by_hand() -> None:
    # Four of 0.9, two right, one of each class and two of class 2: gap 0.4; p = 2.5 / 5, so its error is 0.5 / sqrt(4).
    bins = ReliabilityBins.from_detections(made([0, 1, 2, 2], [0.9] * 4, [1, 1, 0, 0]), 2)
    noisy_gap = foldnorm.mean(0.4 / 0.25, scale=0.25)
    assert noisy_gap > 0.4
    assert ece(bins) == pytest.approx(0.4)
    assert ece(bins, debiased=True) == pytest.approx(2 * 0.4 - noisy_gap)
    assert class_ccece_debiased(bins.pooled())[0] == pytest.approx(2 * 0.4 - noisy_gap)


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
