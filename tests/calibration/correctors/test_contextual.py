"""The corrector `contextual`, and its shrunk class shifts."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, logit

from raylabel.calibration import Detections, FitContext, corrector_from_json, fit_corrector
from raylabel.calibration.correctors.class_shift import fit_class_shift
from raylabel.calibration.correctors.contextual import ContextualCorrector
from raylabel.calibration.metrics import nll
from raylabel.predictions.context import CONTEXT_FEATURES

NUM_CLASSES = 6
GROUPS = np.array(["r", "r", "c", "c", "f", "f"])
CONTEXT = FitContext(num_bins=10, frequency_groups=GROUPS)
DUPLICATE = CONTEXT_FEATURES.index("iou_higher_same")


def simulated(seed: int, num: int) -> Detections:
    """Generate calibrated detections, of which a third are duplicates, nearly always wrong. Class 5 never occurs."""
    rng = np.random.default_rng(seed)
    scores, is_duplicate = rng.beta(1, 1.5, num), rng.random(num) < 1 / 3
    context = np.full((num, len(CONTEXT_FEATURES)), np.nan, np.float32)
    context[:, : CONTEXT_FEATURES.index("mask_quality")] = rng.random((num, CONTEXT_FEATURES.index("mask_quality")))
    context[:, DUPLICATE] = np.where(is_duplicate, rng.uniform(0.6, 1, num), rng.uniform(0, 0.4, num))
    accuracy = np.where(is_duplicate, 0.05, scores)
    return Detections(
        num_classes=NUM_CLASSES,
        class_indices=rng.integers(0, 5, num).astype(np.int32),
        raw_scores=scores,
        image_indices=rng.integers(0, 1 + num // 10, num),
        outcomes=(rng.random(num) < accuracy).astype(np.int8),
        weights=np.ones(num),
        context=context,
    )


FITTED = fit_corrector("contextual", simulated(0, 3000), context=CONTEXT)
assert isinstance(FITTED, ContextualCorrector)


def with_scores(row: int, scores: np.ndarray) -> Detections:
    """Repeat one detection with each of the given scores."""
    rows = simulated(1, 50).subset(np.full(len(scores), row))
    return replace(rows, raw_scores=scores)


def test_duplicates_are_told_from_firsts() -> None:
    unseen = simulated(1, 4000)
    duplicates = unseen.context[:, DUPLICATE] > 0.5
    scores = FITTED(unseen)
    assert scores[duplicates].mean() == pytest.approx(unseen.is_correct[duplicates].mean(), abs=0.03)
    assert scores[~duplicates].mean() == pytest.approx(unseen.is_correct[~duplicates].mean(), abs=0.02)
    best = np.where(duplicates, 0.05, unseen.raw_scores)
    best_nll, found_nll = (nll(one, unseen.is_correct) for one in (best, scores))
    assert found_nll < best_nll + 0.03 < nll(unseen.raw_scores, unseen.is_correct) - 0.1


@pytest.mark.parametrize("row", range(0, 50, 10))
def test_continuous_and_rising_in_the_score_with_any_context(row: int) -> None:
    scores = np.linspace(0.002, 0.998, 20_001)
    found = FITTED(with_scores(row, scores))
    assert np.diff(found).min() > 0
    assert np.diff(found).max() < 0.002
    assert np.isfinite(FITTED(with_scores(row, np.array([0.0, 1.0])))).all()


def test_below_the_scores_of_the_fit_log_odds_fall_as_the_scores_do() -> None:
    """A lower threshold admits detections that the fit never saw. The fit's flat slope would score them too high."""
    detections = simulated(0, 6000)
    corrector = fit_corrector("contextual", detections.subset(detections.raw_scores >= 0.4), context=CONTEXT)
    lowest = detections.raw_scores[detections.raw_scores >= 0.4].min()
    scores = np.array([0.001, 0.1, 0.3, lowest])
    found = corrector(with_scores(0, scores))
    np.testing.assert_allclose(np.diff(logit(found)), np.diff(logit(scores)), rtol=1e-5)


def test_reads_back_to_the_same_bits_and_has_no_pickle() -> None:
    text = json.dumps(FITTED.to_json(), allow_nan=False)
    assert "Tree=0" in text, "the trees are LightGBM's text"
    read_back = corrector_from_json(json.loads(text))
    assert read_back.to_json() == FITTED.to_json()
    np.testing.assert_array_equal(read_back(simulated(2, 500)), FITTED(simulated(2, 500)))


def test_the_same_data_give_the_same_model() -> None:
    again = fit_corrector("contextual", simulated(0, 3000), context=CONTEXT)
    assert again.to_json() == FITTED.to_json()


def test_a_feature_that_is_missing_is_named() -> None:
    unseen = simulated(1, 20)
    lacking = unseen.context.copy()
    lacking[3, DUPLICATE] = np.nan
    with pytest.raises(ValueError, match="iou_higher_same, which these detections lack"):
        FITTED(replace(unseen, context=lacking))
    with pytest.raises(ValueError, match="context, which they lack"):
        FITTED(replace(unseen, context=None))
    with pytest.raises(ValueError, match="unknown context feature 'weather'"):
        corrector_from_json(FITTED.to_json() | {"features": ["weather"]})


def test_a_feature_unknown_at_the_fit_is_not_asked_for_later() -> None:
    assert "mask_quality" not in FITTED.features
    assert "rank" in FITTED.features


@pytest.mark.parametrize("num", [0, 1, 5, 60])
def test_few_detections_do_little(num: int) -> None:
    """On calibrated scores a fit to at most 60 detections hardly raises NLL."""
    rng = np.random.default_rng(num)
    few = simulated(3, 200).subset(slice(0, num))
    few = replace(few, outcomes=(rng.random(num) < few.raw_scores).astype(np.int8))
    corrector = fit_corrector("contextual", few, context=CONTEXT)
    unseen = simulated(4, 5000)
    unseen = replace(unseen, outcomes=(rng.random(5000) < unseen.raw_scores).astype(np.int8))
    assert nll(corrector(unseen), unseen.is_correct) < nll(unseen.raw_scores, unseen.is_correct) + 0.02


def test_weights_count_as_repetitions_do_but_for_their_effective_number() -> None:
    """Equal weights of 7 give the same corrector as weights of 1."""
    detections = simulated(0, 1500)
    heavy = replace(detections, weights=np.full(1500, 7.0))
    np.testing.assert_allclose(
        fit_corrector("contextual", heavy, context=CONTEXT)(simulated(1, 200)),
        fit_corrector("contextual", detections, context=CONTEXT)(simulated(1, 200)),
        rtol=1e-9,
    )


def test_trees_learn_the_weighted_outcomes() -> None:
    """Half of the detections are right. Among duplicates the wrong ones weigh 3, so a quarter of their weight is."""
    num = 4000
    number = np.arange(num)
    is_duplicate, is_right = number % 2 == 0, number // 2 % 2 == 0
    context = np.full((num, len(CONTEXT_FEATURES)), np.nan, np.float32)
    context[:, DUPLICATE] = is_duplicate
    detections = Detections(
        num_classes=NUM_CLASSES,
        class_indices=np.ones(num, np.int32),
        raw_scores=np.full(num, 0.5),
        image_indices=number // 4,
        outcomes=is_right.astype(np.int8),
        weights=np.where(is_duplicate & ~is_right, 3.0, 1.0),
        context=context,
    )
    corrector = fit_corrector("contextual", detections, context=CONTEXT)
    assert isinstance(corrector, ContextualCorrector)
    # The weights sum up to 6000 and their squares to 12000, so they are worth 3000 detections, a third of them right.
    slope = 1000 / (1000 + 3000)
    np.testing.assert_allclose(corrector.prior, [(1 - slope) * logit(1000.5 / 3001), slope])
    found = corrector(detections)
    assert found[is_duplicate] == pytest.approx(0.25, abs=0.01)
    assert found[~is_duplicate] == pytest.approx(0.5, abs=0.01)


def test_what_is_learnt_of_single_images_has_no_share() -> None:
    """The detections of an image are all right or all wrong, and a feature names the image alone."""
    num_images = 60
    images = np.repeat(np.arange(num_images), 50)
    rng = np.random.default_rng(0)
    context = np.full((len(images), len(CONTEXT_FEATURES)), np.nan, np.float32)
    context[:, DUPLICATE] = rng.permutation(num_images)[images] / num_images
    detections = Detections(
        num_classes=NUM_CLASSES,
        class_indices=np.ones(len(images), np.int32),
        raw_scores=np.full(len(images), 0.5),
        image_indices=images,
        outcomes=(rng.permutation(num_images) % 2)[images].astype(np.int8),
        weights=np.ones(len(images)),
        context=context,
    )
    found = fit_corrector("contextual", detections, context=CONTEXT)
    assert isinstance(found, ContextualCorrector)
    assert found.share < 0.2


def test_shifts_meet_the_weighted_outcomes() -> None:
    """At log odds 0, 5000 right ones of weight 1 and 5000 wrong ones of weight 3: a quarter of the weight is right."""
    classes = np.repeat([2, 3], 5000)
    is_correct = np.tile([True, False], 5000)
    weights = np.where(is_correct | (classes == 2), 1.0, 3.0)
    found = fit_class_shift(np.zeros(10_000), classes, is_correct, weights, frequency_groups=GROUPS)
    assert found.of_class[2] == pytest.approx(0.0, abs=0.01)
    assert found.of_class[3] == pytest.approx(np.log(1 / 3), abs=0.01)
    assert found.num_effective.tolist() == [0, 0, 5000, 10_000, 0, 0]
    # The information of a class is its weight * p (1 - p), plus that of the prior.
    prior = 1 / found.deviation**2
    assert found.error[2:4] == pytest.approx([(5000 / 4 + prior) ** -0.5, (10_000 * 3 / 16 + prior) ** -0.5], rel=0.01)


def test_a_class_shift_by_hand() -> None:
    """The mode balances the outcomes against both normal priors."""
    classes, is_correct = np.zeros(20, np.int64), np.arange(20) < 16
    found = fit_class_shift(np.zeros(20), classes, is_correct, np.ones(20), frequency_groups=np.array(["r"]))
    # d/ds of the log likelihood is 16 - 20 sigmoid(s). The group takes g = 0.3^2 / (0.3^2 + deviation^2) of the shift.
    shift, variance = found.of_class[0], 0.09 + found.deviation**2
    assert 16 - 20 * expit(shift) == pytest.approx(shift / variance, abs=1e-3)


def shifted(seed: int, counts: list[int], shifts: list[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Generate log odds, classes and outcomes with shifted true log odds per class."""
    rng = np.random.default_rng(seed)
    classes = np.repeat(np.arange(len(counts)), counts)
    log_odds = rng.normal(0, 1.5, len(classes))
    return log_odds, classes, rng.random(len(classes)) < expit(log_odds + np.array(shifts)[classes])


def test_a_class_of_many_detections_gets_its_shift_and_one_of_few_its_groups() -> None:
    counts, shifts = [1, 0, 20_000, 20_000, 3000, 3000], [3.0, 0.0, 1.0, -1.0, 0.3, 0.3]
    log_odds, classes, is_correct = shifted(0, counts, shifts)
    found = fit_class_shift(log_odds, classes, is_correct, np.ones(len(classes)), frequency_groups=GROUPS)
    np.testing.assert_allclose(found.of_class[2:4], shifts[2:4], atol=0.1)
    assert abs(found.of_class[0]) < 0.6, "one detection moves little"
    assert abs(found.of_class[1]) < 0.3, "a class without a detection has the shift of its group"
    assert found.error[0] > 5 * found.error[2]
    np.testing.assert_array_equal(found.num_effective, counts)


def test_without_a_difference_between_classes_shifts_vanish() -> None:
    log_odds, classes, is_correct = shifted(1, [400] * 6, [0.0] * 6)
    found = fit_class_shift(log_odds, classes, is_correct, np.ones(len(classes)), frequency_groups=GROUPS)
    assert found.deviation < 0.15
    assert np.abs(found.of_class).max() < 0.15


def test_a_class_unseen_in_calibration_gets_its_group() -> None:
    assert FITTED.shift.num_effective[5] == 0
    row = with_scores(0, np.array([0.5]))
    unseen, seen = (replace(row, class_indices=np.array([one], np.int32)) for one in (5, 4))
    apart = logit(FITTED(unseen)[0]) - logit(FITTED(seen)[0])
    assert apart == pytest.approx(FITTED.shift.of_class[5] - FITTED.shift.of_class[4], abs=1e-9)
