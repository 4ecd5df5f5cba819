"""The accuracy estimated from a pool's scores alone is near the hidden truth, and its intervals cover it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from image_world import FLAT, NUM_CLASSES, ZIPF, detect, histogram
from raylabel.calibration import Detections, FitContext, ReliabilityBins, estimate_pool_accuracy, fit_corrector
from raylabel.calibration.metrics import nll
from raylabel.calibration.shift.pool_accuracy import _expectation_maximisation

CONTEXT = FitContext(num_bins=15, frequency_groups=np.full(NUM_CLASSES, "f"))


def accuracy_of(detections: Detections) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of detections and the correct share per class."""
    num = np.bincount(detections.class_indices, minlength=NUM_CLASSES)
    correct = np.bincount(detections.class_indices, detections.is_correct, NUM_CLASSES)
    return num, correct / np.maximum(num, 1)


@pytest.mark.parametrize(("here", "there"), [(ZIPF, ZIPF), (ZIPF, FLAT), (FLAT, ZIPF)], ids=["same", "flat", "zipf"])
@pytest.mark.parametrize("num_images", [30, 400])
def test_estimates_are_near_the_truth_and_intervals_hold_it(
    here: np.ndarray, there: np.ndarray, num_images: int
) -> None:
    rng = np.random.default_rng(0)
    is_held, errors, errors_of_calibration = [], [], []
    for _ in range(60 if num_images < 100 else 10):  # more, because a small split errs alike in all classes
        calibration, pool = detect(rng, num_images, here), detect(rng, 1500, there)
        found = estimate_pool_accuracy(calibration, histogram(pool))
        num, truth = accuracy_of(pool)
        counted = num >= 10
        is_held += ((found.low <= truth) & (truth <= found.high))[counted].tolist()
        errors += np.abs(found.accuracy - truth)[counted].tolist()
        errors_of_calibration += np.abs(accuracy_of(calibration)[1] - truth)[counted].tolist()
    assert np.mean(is_held) >= 0.9
    assert np.mean(errors) < 0.08
    assert np.mean(errors) < 0.6 * np.mean(errors_of_calibration)


def test_intervals_narrow_with_more_images_on_either_side() -> None:
    rng = np.random.default_rng(0)
    pool = histogram(detect(rng, 500, FLAT))
    large_pool = replace(pool, num=100 * pool.num, sum_confidence=100 * pool.sum_confidence)
    few, many = detect(rng, 40, FLAT), detect(rng, 1500, FLAT)

    def width(calibration: Detections, there: ReliabilityBins) -> float:
        found = estimate_pool_accuracy(calibration, there)
        return float(np.mean(found.high - found.low))

    assert width(few, large_pool) > 2 * width(many, large_pool)
    assert width(many, pool) > 2 * width(many, large_pool)


def test_expectation_maximisation_by_hand() -> None:
    # Right ones lie in the second bin only, wrong ones in both. The bins hold 10 and 30. All 10 and 10 of the 30 are
    # wrong, so the accuracy is 1/2. The prior, worth 2, agrees.
    right, wrong = np.array([[0.0, 1.0]]), np.array([[0.5, 0.5]])
    found = _expectation_maximisation(np.array([[10.0, 30.0]]), right, wrong, np.array([0.5]))
    np.testing.assert_allclose(found, [0.5], atol=1e-5)


def test_unseen_classes_and_no_detection() -> None:
    rng = np.random.default_rng(0)
    calibration, pool = detect(rng, 200, ZIPF), detect(rng, 500, ZIPF)
    known = calibration.subset(calibration.class_indices != 3)
    there = pool.subset(pool.class_indices != 5)
    found = estimate_pool_accuracy(known, histogram(there))
    assert np.isnan(found.accuracy).nonzero()[0].tolist() == [5]
    assert np.isnan(found.low).nonzero()[0].tolist() == [5]
    assert found.low[3] <= accuracy_of(pool)[1][3] <= found.high[3], "estimated with the shapes of all classes"
    nothing = estimate_pool_accuracy(Detections.empty(NUM_CLASSES), histogram(pool))
    assert (nothing.high - nothing.low)[:3].min() > 0.8, "nothing is known"
    assert np.isfinite(nothing.accuracy).all()


def test_estimates_do_not_depend_on_the_order_of_detections() -> None:
    rng = np.random.default_rng(0)
    calibration, pool = detect(rng, 100, ZIPF), histogram(detect(rng, 300, FLAT))
    shuffled = calibration.subset(rng.permutation(len(calibration)))
    for one, other in zip(
        vars(estimate_pool_accuracy(calibration, pool)).values(),
        vars(estimate_pool_accuracy(shuffled, pool)).values(),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=1e-9)


@pytest.mark.parametrize(("here", "there"), [(ZIPF, FLAT), (FLAT, ZIPF)], ids=["zipf to flat", "flat to zipf"])
def test_marginal_for_the_pool_beats_marginal_from_elsewhere(here: np.ndarray, there: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    losses = []
    for _ in range(4):
        calibration, pool = detect(rng, 150, here), detect(rng, 1000, there)
        unknown = replace(pool, outcomes=np.zeros(len(pool), np.int8))
        for_pool = replace(CONTEXT, pool_histogram=histogram(unknown))
        correctors = [fit_corrector("marginal", calibration, context=one) for one in (CONTEXT, for_pool)]
        losses.append([nll(scores, pool.is_correct) for scores in (pool.raw_scores, *(c(pool) for c in correctors))])
    raw, elsewhere, here_now = np.mean(losses, axis=0)
    assert here_now < elsewhere - 0.01
    assert here_now < raw - 0.05


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num=st.integers(0, 30), num_pool=st.integers(0, 30))
def test_marginal_for_any_pool_promises_what_correctors_do(seed: int, num: int, num_pool: int) -> None:
    rng = np.random.default_rng(seed)
    palette = [0.0, 1.0, 0.1, 1e-9, 1 - 1e-9, *rng.random(4)]

    def draw(size: int) -> Detections:
        drawn = Detections.of_scores(rng.integers(0, 3, size), rng.choice(palette, size), num_classes=4)
        return replace(drawn, outcomes=rng.integers(0, 3, size).astype(np.int8), image_indices=rng.integers(0, 5, size))

    context = FitContext(num_bins=5, frequency_groups=np.full(4, "r"), pool_histogram=histogram(draw(num_pool)))
    corrector = fit_corrector("marginal", draw(num), context=context)
    grid = np.linspace(0, 1, 501)
    for index in range(4):
        scores = corrector(Detections.of_scores(np.full(501, index), grid, num_classes=4))
        assert np.isfinite(scores).all()
        assert scores.min() >= 0
        assert scores.max() <= 1
        assert np.diff(scores).min() >= 0


def test_marginal_for_the_pool_and_its_gaps() -> None:
    rng = np.random.default_rng(0)
    calibration, pool = detect(rng, 200, ZIPF), detect(rng, 500, FLAT)
    there = histogram(pool.subset(pool.class_indices != 5))
    plain = fit_corrector("marginal", calibration, context=CONTEXT)
    for_pool = fit_corrector("marginal", calibration, context=replace(CONTEXT, pool_histogram=there))
    same = plain(pool) == for_pool(pool)
    assert same[pool.class_indices == 5].all(), "a class absent from the pool keeps its correction"
    assert not same[pool.class_indices == 0].any()
    empty = fit_corrector("marginal", Detections.empty(NUM_CLASSES), context=replace(CONTEXT, pool_histogram=there))
    np.testing.assert_allclose(empty(pool), pool.raw_scores, atol=2e-6)
    automatic = fit_corrector("auto", calibration, context=replace(CONTEXT, pool_histogram=there))
    assert automatic.to_json() == fit_corrector("auto", calibration, context=CONTEXT).to_json()


def test_an_interval_is_that_of_the_posterior_where_the_shapes_are_known() -> None:
    """Right detections score 0.9 and wrong ones 0.1. 4 of 8 in the pool are right, and the prior adds 1 and 1.

    The posterior is Beta(4 + 1 + 1, 4 + 1 + 1), on a grid of hundredths.
    """
    num = 4000
    is_right = np.arange(num) % 2 == 0
    calibration = Detections(
        num_classes=1,
        class_indices=np.zeros(num, np.int32),
        raw_scores=np.where(is_right, 0.9, 0.1),
        image_indices=np.arange(num),
        outcomes=is_right.astype(np.int8),
        weights=np.ones(num),
    )
    found = estimate_pool_accuracy(calibration, histogram(calibration.subset(slice(0, 8))))
    low, high = stats.beta.interval(0.95, 6, 6)
    assert found.accuracy[0] == pytest.approx(0.5, abs=1e-3)
    assert found.low[0] == pytest.approx(low, abs=0.012)
    assert found.high[0] == pytest.approx(high, abs=0.012)
    heavy = replace(calibration, weights=np.where(is_right, 1.0, 3.0))
    # A quarter of the weight is right, so the prior adds 0.5 right and 1.5 wrong ones: Beta(5.5, 6.5).
    found = estimate_pool_accuracy(heavy, histogram(calibration.subset(slice(0, 8))))
    low, high = stats.beta.interval(0.95, 5.5, 6.5)
    assert found.accuracy[0] == pytest.approx(0.45, abs=1e-3)
    assert found.low[0] == pytest.approx(low, abs=0.012)
    assert found.high[0] == pytest.approx(high, abs=0.012)
