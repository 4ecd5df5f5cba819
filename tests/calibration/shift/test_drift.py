"""The drift warning fires only after a change, and names the changed classes."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest, chi2_contingency
from scipy.stats import f as f_distribution

from image_world import FLAT, NUM_CLASSES, ZIPF, counted, detect, histogram
from raylabel.calibration import Detections, ImageCounts, estimate_pool_accuracy, measure_drift
from raylabel.calibration.shift.drift import _holm
from raylabel.calibration.shift.image_counts import equal_shares
from raylabel.schema import DRIFT

NAMES = [f"class {index}" for index in range(NUM_CLASSES)]


def is_far(num_replications: int, num_alarms: int) -> bool:
    """Return whether the alarms exceed 5% of the replications by more than chance (p < 0.001)."""
    return bool(binomtest(num_alarms, num_replications, 0.05, alternative="greater").pvalue < 1e-3)


@pytest.mark.parametrize(("num_calibration", "num_pool"), [(100, 600), (300, 300), (30, 400)])
def test_false_alarms_are_at_most_5_percent(num_calibration: int, num_pool: int) -> None:
    """Both sides come from one world. Objects of an image share class, difficulty and number, so they cluster."""
    rng = np.random.default_rng(0)
    num_replications = num_alarms = num_material = num_tests = num_below = 0
    for _ in range(200):
        parts = [counted(detect(rng, num, ZIPF), num) for num in (num_calibration, num_pool)]
        report = measure_drift(*parts)
        p_values = np.stack([report.psi_p_value, report.rate_p_value])
        num_replications += 1
        num_alarms += bool(_holm(p_values, 0.05).any())
        num_material += len(report.drifted_classes) > 0
        num_tests += int((~np.isnan(p_values)).sum())
        num_below += int((p_values < 0.05).sum())
    assert not is_far(num_replications, num_alarms), "even without the required size of a change"
    assert num_material <= num_alarms
    assert num_below / num_tests < 0.06
    assert num_below / num_tests > 0.02, "the tests have power"


def test_tests_that_take_detections_for_independent_raise_false_alarms() -> None:
    """On the same worlds, plain multinomial bands fail because of the clusters."""
    rng = np.random.default_rng(0)
    num_alarms = 0
    for _ in range(100):
        parts = [counted(detect(rng, num, ZIPF), num) for num in (100, 600)]
        naive = [
            ImageCounts(
                num_images=part.num_images,
                num=part.num,
                products=part.num[:, :, None] * np.eye(50),
                num_images_with=part.num_images_with,
            )
            for part in parts
        ]
        report = measure_drift(*naive)
        num_alarms += bool(_holm(np.stack([report.psi_p_value, report.rate_p_value]), 0.05).any())
    assert num_alarms > 50


@pytest.mark.parametrize(("here", "there"), [(ZIPF, FLAT), (FLAT, ZIPF)], ids=["zipf to flat", "flat to zipf"])
def test_another_class_mix_is_found_and_named(here: np.ndarray, there: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    named = np.zeros(NUM_CLASSES)
    num_fired = 0
    for _ in range(20):
        calibration, pool = counted(detect(rng, 200, here), 200), counted(detect(rng, 1000, there), 1000)
        report = measure_drift(calibration, pool)
        warning = report.warning(NAMES)
        num_fired += warning is not None
        named[report.drifted_classes] += 1
        moved = report.drifted_classes[report.rate_drifted[report.drifted_classes]]
        went_up = there[moved] > here[moved]
        assert (np.sign(report.rate_ratio[moved] - 1) == np.where(went_up, 1, -1)).mean() > 0.9
    assert num_fired == 20
    assert named[0] == 20, "the head is 6 times as frequent in one set"
    assert named[-6:].sum() > 3 * named[4:10].sum(), "the tail changed, the middle hardly did"


def test_the_same_mix_with_other_scores_is_found() -> None:
    rng = np.random.default_rng(0)
    num_named = 0
    for _ in range(10):
        calibration = counted(detect(rng, 300, ZIPF), 300)
        report = measure_drift(calibration, counted(detect(rng, 1000, ZIPF, is_blurred=True), 1000))
        assert report.scores_drifted[0]
        num_named += report.scores_drifted[:4].sum()
        assert "scores 0." in report.describe(0)
    assert num_named > 30, "of 40: the four most frequent classes in ten replications"


def test_a_small_change_that_is_proved_is_not_named() -> None:
    """In one of two huge sets each class is 1.1 times as frequent."""
    rng = np.random.default_rng(0)

    def spread(num_images: int, rate: float) -> ImageCounts:
        num = rng.poisson(rate, num_images)
        images = np.repeat(np.arange(num_images), num)
        detections = Detections.of_scores(np.zeros(len(images), int), rng.random(len(images)), num_classes=1)
        return counted(replace(detections, image_indices=images), num_images)

    report = measure_drift(spread(40_000, 1.0), spread(40_000, 1.1))
    assert report.rate_p_value[0] < 1e-6
    assert report.rate_ratio_low[0] < 1.1 < report.rate_ratio_high[0]
    assert report.warning(["thing"]) is None
    report = measure_drift(spread(40_000, 1.0), spread(40_000, 1.5))
    warning = report.warning(["thing"])
    assert warning is not None
    assert "1 of 1 classes: thing (1.5 times as often)" in warning


def test_independent_detections_give_the_textbook_tests() -> None:
    """With one detection per image, the tests are Pearson's chi-square and the binomial test of a share."""
    rng = np.random.default_rng(1)

    def one_each(num: int, power: float) -> ImageCounts:
        detections = Detections.of_scores(np.zeros(num, int), rng.random(num) ** power, num_classes=1)
        return counted(replace(detections, image_indices=np.arange(num)), 3 * num if power < 1.1 else 2 * num)

    calibration, pool = one_each(4000, 1.0), one_each(3000, 1.15)
    report = measure_drift(calibration, pool)
    groups = equal_shares(calibration.num[0] + pool.num[0], 10)
    table = np.stack([np.bincount(groups, part.num[0]) for part in (calibration, pool)])
    assert report.psi_p_value[0] == pytest.approx(chi2_contingency(table, correction=False).pvalue, rel=0.05)
    exact = binomtest(4000, 7000, 12_000 / 18_000)
    assert report.rate_p_value[0] == pytest.approx(exact.pvalue, rel=0.1)
    interval = exact.proportion_ci(method="exact")
    assert report.rate_ratio_low[0] == pytest.approx((1 / interval.high - 1) * 2, rel=1e-6)
    assert report.rate_ratio_high[0] == pytest.approx((1 / interval.low - 1) * 2, rel=1e-6)


def test_a_class_that_only_one_side_has() -> None:
    def only(index: int, num: int) -> Detections:
        detections = Detections.of_scores(np.full(num, index), np.full(num, 0.5), num_classes=3)
        return replace(detections, image_indices=np.arange(num))

    report = measure_drift(counted(only(0, 40), 100), counted(only(1, 40), 100))
    assert report.rate_ratio[0] == 0
    assert np.isinf(report.rate_ratio[1])
    assert report.rate_drifted.tolist() == [True, True, False]
    assert np.isnan(report.rate_p_value[2])
    assert np.isnan(report.psi).all(), "nothing to compare"
    assert "not in the calibration split" in report.describe(1)
    assert "0 times as often" in report.describe(0)


def test_nothing_at_all_is_no_drift() -> None:
    nothing = ImageCounts.zeros(3, 50)
    report = measure_drift(nothing, nothing)
    assert report.warning(["a", "b", "c"]) is None
    assert report.summary(["a", "b", "c"])["num_tests"] == 0
    with pytest.raises(ValueError, match="must have the same shape"):
        measure_drift(nothing, ImageCounts.zeros(3, 20))


def test_the_table_follows_its_schema() -> None:
    rng = np.random.default_rng(0)
    detections, pool = detect(rng, 100, ZIPF), detect(rng, 500, FLAT)
    report = measure_drift(counted(detections, 100), counted(pool, 500))
    table = report.to_table(estimate_pool_accuracy(detections, histogram(pool)))
    assert table.schema.equals(DRIFT)
    assert table.num_rows == NUM_CLASSES
    rows = table.to_pylist()
    assert sum(row["num_pool"] for row in rows) == len(pool)
    drifted = {row["class_index"] for row in rows if row["scores_drifted"] or row["rate_drifted"]}
    assert drifted == set(report.drifted_classes.tolist())
    assert all(row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"] for row in rows)


def test_holm_by_hand() -> None:
    # 0.01 <= 0.05 / 4, 0.014 <= 0.05 / 3, 0.03 > 0.05 / 2: the third is not rejected, so the fourth is not either.
    p_values = np.array([[0.03, 0.01, np.nan], [0.04, 0.014, np.nan]])
    assert _holm(p_values, 0.05).tolist() == [[False, True, False], [False, True, False]]
    assert _holm(np.array([np.nan]), 0.05).tolist() == [False]
    assert _holm(np.array([0.04]), 0.05).tolist() == [True]


def test_the_95_percent_point_of_the_index_is_where_its_p_value_is_5_percent() -> None:
    """In 240 comparisons without a change, about 12 exceed it, and they are those with p values below 0.05."""
    rng = np.random.default_rng(0)
    reports = [
        measure_drift(counted(detect(rng, 400, FLAT), 400), counted(detect(rng, 600, FLAT), 600)) for _ in range(10)
    ]
    exceeds = np.concatenate([report.psi > report.psi_null for report in reports])
    is_rejected = np.concatenate([report.psi_p_value < 0.05 for report in reports])
    assert 3 <= exceeds.sum() <= 24
    assert np.mean(exceeds == is_rejected) > 0.98


def test_the_scatter_between_images_widens_the_test_by_hand() -> None:
    """Ten images per side have four equal scores each, low or high. Low are four of ten images, and six of ten.

    The two-sample statistic of shares 0.4 and 0.6 of 40 is 0.04 / (0.5 * 0.5) / (1 / 40 + 1 / 40). Over images the
    shares scatter by 10 / 9 * 2 * (4 * 2.4^2 + 6 * 1.6^2), and would by 80 * 0.5 * 0.5 if scores were independent.
    There are 9 + 9 degrees of freedom.
    """

    def side(num_low: int) -> ImageCounts:
        scores = np.repeat(np.where(np.arange(10) < num_low, 0.25, 0.75), 4)
        detections = Detections.of_scores(np.zeros(40, np.int32), scores, num_classes=1)
        return counted(replace(detections, image_indices=np.repeat(np.arange(10), 4)), 10)

    found = measure_drift(side(4), side(6))
    statistic, scatter = 0.04 / 0.25 / (2 / 40), 10 / 9 * 2 * (4 * 5.76 + 6 * 2.56) / (80 * 0.25)
    assert found.psi_p_value[0] == pytest.approx(f_distribution.sf(statistic / scatter, 1, 18))
    assert found.psi_null[0] == pytest.approx(2 / 40 * scatter * f_distribution.ppf(0.95, 1, 18))
