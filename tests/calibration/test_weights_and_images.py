"""A detection of weight k counts as k detections, and uncertainty counts images: over every estimator."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from image_world import FLAT, ZIPF, counted, detect, histogram
from raylabel.calibration import (
    CORRECTOR_KINDS,
    Detections,
    FitContext,
    ReliabilityBins,
    estimate_pool_accuracy,
    fit_corrector,
    measure_drift,
    metrics,
    scored_accuracy,
)
from raylabel.calibration.correctors import auto
from raylabel.calibration.correctors.auto import AutoCorrector, Trial
from raylabel.calibration.metrics import (
    adaptive_ccece,
    adaptive_ece,
    bootstrap_interval,
    brier,
    class_adaptive_ccece,
    classwise_ece,
    d_ece,
    effective_count,
    equal_mass_bin_of,
    equal_mass_bins,
    figures_by_group,
    nll,
    pooled_average_precision,
    precision_recall,
    yield_at_precision,
)

NUM_CLASSES = 3
GROUPS = np.array(["r", "c", "f"])
CONTEXT = FitContext(num_bins=10, frequency_groups=GROUPS, num_train_images=np.array([2, 20, 200]))


def drawn(seed: int = 0, num: int = 240) -> Detections:
    """Draw detections on 40 images with whole weights of 1 to 4. Scores have two digits, so that some are tied."""
    rng = np.random.default_rng(seed)
    return Detections(
        num_classes=NUM_CLASSES,
        class_indices=rng.integers(0, NUM_CLASSES, num).astype(np.int32),
        raw_scores=rng.random(num).round(2),
        image_indices=rng.integers(0, 40, num),
        outcomes=rng.choice([0, 1, 1, 2], num).astype(np.int8),
        weights=rng.integers(1, 5, num).astype(np.float64),
        mask_areas=rng.choice([100, 4000, 20_000], num).astype(np.int32),
    )


def copied(detections: Detections, times: int | None = None) -> Detections:
    """Repeat each detection `times` times in its image, with weight 1. None: as often as its weight says."""
    num = detections.weights.astype(np.int64) if times is None else np.full(len(detections), times)
    copies = detections.subset(np.repeat(np.arange(len(detections)), num))
    return replace(copies, weights=np.ones(len(copies)))


def rows_of(detections: Detections) -> tuple[Any, Any, Any]:
    scored = detections.scored()
    return scored.raw_scores, scored.is_correct, scored.weights


def vectors_of(detections: Detections) -> tuple[Any, Any]:
    scored = detections.scored()
    soft = np.full((len(scored), NUM_CLASSES), 0.1)
    soft[np.arange(len(scored)), scored.class_indices] = 0.8 * scored.raw_scores
    return soft, np.where(scored.is_correct, scored.class_indices, 0)


def binned(figure: Callable[..., Any], **settings: Any) -> Callable[[Detections], Any]:
    return lambda one: figure(ReliabilityBins.from_detections(one, 10), **settings)


def of_rows(figure: Callable[..., Any], *more: Any) -> Callable[[Detections], Any]:
    def measure(one: Detections) -> Any:
        scores, is_correct, weights = rows_of(one)
        return figure(scores, is_correct, *more, weights=weights)

    return measure


def grouped(group_by: Any) -> Callable[[Detections], Any]:
    def measure(one: Detections) -> Any:
        table = figures_by_group(
            one,
            group_by=group_by,
            frequency_groups=GROUPS,
            object_classes=np.repeat([0, 1, 2], 900),
            features=np.round(one.raw_scores * 7 % 1, 3)[:, None],
        )
        unweighted = {"num_detections", "num_images", "num_effective", "num_correct", "num_ignored"}
        return [[value for name, value in of.items() if name not in unweighted] for of in table.values()]

    return measure


FIGURES: dict[str, Callable[[Detections], Any]] = {
    "ace": binned(metrics.ace),
    "adaptive_ccece": lambda one: adaptive_ccece(one, 5),
    "adaptive_ece": lambda one: adaptive_ece(one, 5),
    "brier": of_rows(brier),
    "ccece": binned(metrics.ccece),
    "class_ace": binned(metrics.class_ace),
    "class_adaptive_ccece": lambda one: class_adaptive_ccece(one, 5),
    "class_bias": binned(metrics.class_bias),
    "class_ccece": binned(metrics.class_ccece),
    "class_ccece_debiased": binned(metrics.class_ccece_debiased),
    "class_mce": binned(metrics.class_mce),
    "class_rmsce": binned(metrics.class_rmsce, debiased=True),
    "classwise_ece": lambda one: [
        classwise_ece(*vectors_of(one), weights=rows_of(one)[2], equal_mass=equal_mass, num_bins=4)
        for equal_mass in (False, True)
    ],
    "d_ece": lambda one: d_ece(*rows_of(one)[:2], rows_of(one)[0][:, None] ** 2, weights=rows_of(one)[2]),
    "ece": binned(metrics.ece, debiased=True),
    "equal_mass_bins": lambda one: list(vars(equal_mass_bins(one, 5)).values()),
    "figures_by_group": lambda one: [grouped(by)(one) for by in ("frequency", "size", "class")],
    "mce": binned(metrics.mce, min_count=20),
    "mean_bias": binned(metrics.mean_bias),
    "nll": of_rows(nll),
    "pooled_average_precision": of_rows(pooled_average_precision, 900),
    "precision_recall": lambda one: list(of_rows(precision_recall, 900)(one)),
    "rmsce": binned(metrics.rmsce),
    "scored_accuracy": lambda one: scored_accuracy(one).accuracy,
    "yield_at_precision": lambda one: list(of_rows(yield_at_precision, 900)(one)),
    "ignored detections": lambda one: ReliabilityBins.from_detections(one, 10).num_ignored,
}
"""Figures in which a weight of k is k detections. Their order among equal scores does not count."""

ELSEWHERE = {
    "BootstrapInterval": "a result",
    "PrecisionRecall": "a result",
    "YieldAtPrecision": "a result",
    "bootstrap_interval": "test_uncertainty_counts_images",
    "box_features": "per box",
    "credible_interval": "takes an effective number",
    "effective_count": "test_equal_weights_change_no_uncertainty",
    "equal_mass_bin_of": "test_equal_mass_bins_of_weights_are_those_of_copies",
    "group_masks": "per class",
    "pointwise_nll": "per detection",
    "size_groups": "per detection",
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_detection_of_weight_k_counts_as_k_detections(name: str) -> None:
    weighted = FIGURES[name](drawn())
    np.testing.assert_allclose(_flat(weighted), _flat(FIGURES[name](copied(drawn()))), rtol=1e-6, atol=1e-7)
    unweighted = replace(drawn(), weights=np.ones(len(drawn())))
    assert not np.allclose(_flat(weighted), _flat(FIGURES[name](unweighted)), equal_nan=True), "the weights matter"


def _flat(figures: Any) -> np.ndarray:
    if figures is None:
        return np.array([np.nan])
    if isinstance(figures, list | tuple):
        return np.concatenate([_flat(one) for one in figures])
    return np.asarray(figures, np.float64).ravel()


def test_every_metric_is_tested_with_weights() -> None:
    assert set(metrics.__all__) == (FIGURES.keys() | ELSEWHERE.keys()) - {"scored_accuracy", "ignored detections"}


def test_equal_mass_bins_of_weights_are_those_of_copies() -> None:
    one = drawn()
    num = one.weights.astype(np.int64)
    bins = equal_mass_bin_of(one.raw_scores, 7, one.weights, one.class_indices)
    copies = equal_mass_bin_of(np.repeat(one.raw_scores, num), 7, None, np.repeat(one.class_indices, num))
    np.testing.assert_array_equal(np.repeat(bins, num), copies)


CORRECTED = [kind for kind in CORRECTOR_KINDS if kind not in ("none", "norcal")]
"""Kinds that use outcomes."""


@pytest.mark.parametrize("kind", CORRECTED)
def test_a_corrector_meets_the_weighted_accuracy(kind: str) -> None:
    """The detector always says 0.8. Of 10 detections 8 are right, and the 2 wrong ones weigh 2: 8 / 12 is right."""
    num = 4000
    is_wrong = np.arange(num) % 10 < 2
    detections = Detections(
        num_classes=NUM_CLASSES,
        class_indices=np.ones(num, np.int32),
        raw_scores=np.full(num, 0.8),
        image_indices=np.arange(num) // 4,
        outcomes=(~is_wrong).astype(np.int8),
        weights=np.where(is_wrong, 2.0, 1.0),
    )
    corrector = fit_corrector(kind, detections, context=CONTEXT)
    assert corrector(detections.subset(slice(0, 1)))[0] == pytest.approx(8 / 12, abs=0.012)


@pytest.mark.parametrize("kind", CORRECTOR_KINDS)
def test_equal_weights_change_no_corrector(kind: str) -> None:
    """If every detection stands for 7, the data are as few as they were."""
    few = detect(np.random.default_rng(1), 60, FLAT[:3] * 8)
    scores = Detections.of_scores([0, 1, 2] * 9, np.repeat(np.linspace(0.1, 0.9, 9), 3), num_classes=NUM_CLASSES)
    once, heavy = (
        fit_corrector(kind, replace(few, weights=np.full(len(few), weight)), context=CONTEXT) for weight in (1.0, 7.0)
    )
    np.testing.assert_allclose(heavy(scores), once(scores), atol=1e-4)


def intervals(one: Detections) -> dict[str, list[float]]:
    """Return the widths of all intervals of detections of `image_world`. The pool has the same images."""
    accuracy, in_pool = scored_accuracy(one), estimate_pool_accuracy(one, histogram(copied(one, 1)))
    resampled = bootstrap_interval(
        lambda times: nll(one.raw_scores, one.is_correct, one.weights * times), one.image_indices, num=200
    )
    return {
        "scored_accuracy": (accuracy.high - accuracy.low)[:4].tolist(),
        "pool_accuracy": [float(np.nanmean((in_pool.high - in_pool.low)[:6]))],
        "bootstrap_interval": [resampled.high - resampled.low],
        "auto": [_trial(one).gain_error],
    }


def _trial(detections: Detections) -> Trial:
    """Return the trial of the kind whose fit is a plain mean."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auto, "CORRECTOR_KINDS", {"none": "", "ccece": ""})
        groups = np.full(detections.num_classes, "f")
        fitted = AutoCorrector.fit(detections, FitContext(frequency_groups=groups))
    return fitted.trials["ccece"]


WORLD = detect(np.random.default_rng(3), 120, ZIPF)


def test_uncertainty_counts_images() -> None:
    """Three copies of each detection in its image tell nothing new. Three copies of each image tell more."""
    more_images = copied(WORLD, 3)
    copy = np.arange(len(more_images)) % 3
    more_images = replace(more_images, image_indices=more_images.image_indices * 3 + copy)
    once, same_images, three_times = intervals(WORLD), intervals(copied(WORLD, 3)), intervals(more_images)
    for name, widths in once.items():
        assert np.mean(same_images[name]) > 0.85 * np.mean(widths), name
        assert 0.45 < np.mean(three_times[name]) / np.mean(widths) < 0.8, name  # about 1 / sqrt(3)


def test_equal_weights_change_no_uncertainty() -> None:
    heavy = replace(WORLD, weights=np.full(len(WORLD), 7.0))
    np.testing.assert_allclose(effective_count(heavy), np.bincount(WORLD.class_indices, minlength=24))
    for name, widths in intervals(heavy).items():
        np.testing.assert_allclose(widths, intervals(WORLD)[name], rtol=1e-6, err_msg=name)


def test_a_trial_weighs_gain_and_error_like_copies() -> None:
    weighted = drawn()
    one, copies = _trial(weighted), _trial(copied(weighted))
    assert vars(one) == pytest.approx(vars(copies))
    assert _trial(replace(weighted, weights=np.ones(240))).gain != pytest.approx(one.gain, rel=0.01)


def test_equal_gains_of_every_detection_have_no_error_however_many_an_image_has() -> None:
    """All detections of score 0.8 are wrong, in images of 1 to 9 detections. Each gains the same."""
    images = np.repeat(np.arange(45), np.arange(45) % 9 + 1)
    num = len(images)
    wrong = Detections.of_scores(np.zeros(num, np.int32), np.full(num, 0.8), num_classes=1)
    found = _trial(replace(wrong, outcomes=np.zeros(num, np.int8), image_indices=images))
    assert found.gain == pytest.approx(-np.log(0.2) + np.log(1 - 0.0008), rel=1e-6)
    assert found.gain_error == pytest.approx(0.0, abs=1e-9)


def test_drift_counts_images() -> None:
    """Three copies of each detection in its image leave both tests as they were."""
    rng = np.random.default_rng(0)
    calibration, pool = detect(rng, 200, ZIPF), detect(rng, 300, FLAT)
    once = measure_drift(counted(calibration, 200), counted(pool, 300))
    copies = measure_drift(counted(copied(calibration, 3), 200), counted(copied(pool, 3), 300))
    # Less than independent scatter counts as independent, so a few classes differ.
    assert np.isclose(copies.psi_p_value, once.psi_p_value, rtol=1e-6).mean() > 0.9
    scattered = once.rate_ratio_high - once.rate_ratio_low
    is_scattered = _dispersion(counted(calibration, 200), counted(pool, 300)) > 1
    np.testing.assert_allclose(
        (copies.rate_ratio_high - copies.rate_ratio_low)[is_scattered], scattered[is_scattered], rtol=1e-6
    )
    assert is_scattered.sum() > 10


def _dispersion(first: Any, second: Any) -> np.ndarray:
    """Return variance / mean of the counts per image of both sets, per class."""
    num, images = (first.num + second.num).sum(axis=1), first.num_images + second.num_images
    squares = (first.products + second.products).sum(axis=(1, 2))
    return (squares / images - (num / images) ** 2) * images / (images - 1) / (num / images)


def test_the_error_of_a_gain_is_that_of_a_mean_over_images() -> None:
    """One image has a right detection of score 0.8, the other a wrong one of score 0.6.

    The other image's bias, 0.6 and -0.2, is subtracted from each, with a thousandth of the score mixed in.
    """
    two = Detections.of_scores([0, 0], [0.8, 0.6], num_classes=1)
    found = _trial(replace(two, outcomes=np.array([1, 0], np.int8), image_indices=np.arange(2)))
    gains = [-np.log(0.8) + np.log(0.999 * 0.2 + 0.0008), -np.log(0.4) + np.log(1 - 0.999 * 0.8 - 0.0006)]
    assert found.gain == pytest.approx(np.mean(gains))
    assert found.gain_error == pytest.approx(np.std(gains, ddof=1) / np.sqrt(2))
