"""Bins of equal mass: by hand, against netcal, and with ties, weights and any order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylabel.calibration import Detections
from raylabel.calibration.metrics import (
    adaptive_ccece,
    adaptive_ece,
    ccece,
    class_adaptive_ccece,
    class_mce,
    ece,
    equal_mass_bin_of,
    equal_mass_bins,
)


def made(
    seed: int, num: int, *, num_classes: int = 3, weights: tuple[float, ...] = (1.0,), outcomes: int = 2
) -> Detections:
    rng = np.random.default_rng(seed)
    return Detections(
        num_classes=num_classes,
        class_indices=rng.integers(0, num_classes, num).astype(np.int32),
        raw_scores=rng.random(num) ** 2,
        image_indices=np.arange(num),
        outcomes=rng.integers(0, outcomes, num).astype(np.int8),
        weights=rng.choice(weights, num),
    )


def test_by_hand() -> None:
    # Places (i + 1/2) / 6 times 3 bins: 0.25, 0.75, 1.25, 1.75, 2.25, 2.75.
    assert equal_mass_bin_of(np.array([0.9, 0.01, 0.02, 0.5, 0.03, 0.04]), 3).tolist() == [2, 0, 0, 2, 1, 1]
    # The three of 0.2 are one place: (1 + 3/2) / 4 = 0.625 of 2 bins is bin 1; 0.1 is at 1/8.
    assert equal_mass_bin_of(np.array([0.2, 0.1, 0.2, 0.2]), 2).tolist() == [1, 0, 1, 1]
    # Weights 5, 1, 1, 1: places 2.5/8, 5.5/8, 6.5/8, 7.5/8.
    weights = np.array([5.0, 1, 1, 1])
    assert equal_mass_bin_of(np.array([0.1, 0.2, 0.3, 0.4]), 2, weights).tolist() == [0, 1, 1, 1]
    # Separate groups of two scores each: one score per bin.
    groups = np.array([1, 0, 1, 0])
    assert equal_mass_bin_of(np.array([0.8, 0.1, 0.9, 0.2]), 2, groups=groups).tolist() == [0, 0, 1, 1]
    assert equal_mass_bin_of(np.zeros(0), 3).tolist() == []
    with pytest.raises(ValueError, match="num_bins must be >= 1, got 0"):
        equal_mass_bin_of(np.array([0.5]), 0)


def test_adaptive_ece_by_hand() -> None:
    # Bins {0.1 wrong, 0.2 right} and {0.3 wrong, 0.9 right}: (|0.3 - 1| + |1.2 - 1|) / 4.
    detections = Detections(
        num_classes=2,
        class_indices=np.array([0, 1, 0, 1], dtype=np.int32),
        raw_scores=np.array([0.1, 0.2, 0.3, 0.9]),
        image_indices=np.arange(4),
        outcomes=np.array([0, 1, 0, 1], dtype=np.int8),
        weights=np.ones(4),
    )
    assert adaptive_ece(detections, 2) == pytest.approx((0.7 + 0.2) / 4)
    # Each class has one detection per bin: class 0 (0.1 + 0.3) / 2, class 1 (0.8 + 0.1) / 2.
    np.testing.assert_allclose(class_adaptive_ccece(detections, 2), [0.2, 0.45])
    assert adaptive_ccece(detections, 2) == pytest.approx(0.325)
    with pytest.raises(ValueError, match="no class has at least 3"):
        adaptive_ccece(detections, 2, min_count=3)


@given(st.integers(0, 10_000), st.integers(1, 200), st.integers(1, 20))
def test_counts_differ_by_one_at_most_and_order_is_kept(seed: int, num: int, num_bins: int) -> None:
    scores = np.random.default_rng(seed).permutation(num) / num
    bins = equal_mass_bin_of(scores, num_bins)
    counts = np.bincount(bins, minlength=num_bins)
    assert counts.max() - counts.min() <= 1
    assert (np.diff(bins[np.argsort(scores)]) >= 0).all()


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2), st.integers(1, 4)), min_size=1, max_size=40))
def test_weights_are_repeats_and_groups_are_separate(rows: list[tuple[int, int, int]]) -> None:
    places, groups, weights = (np.array(column) for column in zip(*rows, strict=True))
    scores = places / 6
    bins = equal_mass_bin_of(scores, 5, weights.astype(float), groups)
    repeated = equal_mass_bin_of(np.repeat(scores, weights), 5, None, np.repeat(groups, weights))
    assert np.repeat(bins, weights).tolist() == repeated.tolist()
    for group in np.unique(groups):
        alone = groups == group
        assert bins[alone].tolist() == equal_mass_bin_of(scores[alone], 5, weights[alone].astype(float)).tolist()


@given(st.integers(0, 10_000), st.integers(1, 80))
def test_ignored_and_row_order_do_not_matter(seed: int, num: int) -> None:
    detections = made(seed, num, weights=(1.0, 2.5), outcomes=3)
    if not detections.is_scored.any():
        with pytest.raises(ValueError, match="no class"):
            adaptive_ece(detections, 4)
        assert np.isnan(class_adaptive_ccece(detections, 4)).all()
        return
    mixed = detections.subset(np.random.default_rng(seed).permutation(num))
    for figure in (adaptive_ece, adaptive_ccece):
        assert figure(detections, 4) == pytest.approx(figure(detections.scored(), 4))
        assert figure(detections, 4) == pytest.approx(figure(mixed, 4))


def test_given_scores_take_the_place_of_raw_ones() -> None:
    detections = made(0, 50)
    others = np.random.default_rng(9).random(50)
    assert adaptive_ece(detections, 5, others) != pytest.approx(adaptive_ece(detections, 5))
    assert adaptive_ece(detections, 5, others) == pytest.approx(
        ece(equal_mass_bins(detections, 5, others, per_class=False))
    )
    assert adaptive_ece(detections, 5, debiased=True) < adaptive_ece(detections, 5)
    assert adaptive_ccece(detections, 5) == pytest.approx(ccece(equal_mass_bins(detections, 5)))
    assert class_mce(equal_mass_bins(detections, 5)).shape == (3,)


@pytest.mark.parametrize(("num", "num_bins"), [(300, 15), (40, 20)])
def test_equals_netcal(num: int, num_bins: int) -> None:
    """If the bins divide the detections evenly, netcal's quantiles fall between the same scores."""
    netcal = pytest.importorskip("netcal.metrics")
    detections = made(1, num)
    truth = detections.is_correct.astype(int)
    for name in ("ECE", "ACE"):
        theirs = getattr(netcal, name)(bins=num_bins, equal_intervals=False).measure(detections.raw_scores, truth)
        assert adaptive_ece(detections, num_bins) == pytest.approx(theirs, abs=1e-12)


def test_per_class_equals_netcal_on_the_class() -> None:
    netcal = pytest.importorskip("netcal.metrics")
    detections = made(2, 120, num_classes=2)
    errors = class_adaptive_ccece(detections, 1)
    for index in range(2):
        rows = detections.class_indices == index
        theirs = netcal.ECE(bins=1, equal_intervals=False).measure(
            detections.raw_scores[rows], detections.is_correct[rows].astype(int)
        )
        assert errors[index] == pytest.approx(theirs, abs=1e-12)
