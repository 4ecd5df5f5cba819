"""Accuracy per class: exact intervals, and the cost of clustering by image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from raylabel.calibration import Detections, scored_accuracy
from raylabel.calibration.accuracy import exact_interval
from raylabel.predictions.matching import Outcome


def detections_of(images: list[int], is_correct: list[bool], weights: list[float] | None = None) -> Detections:
    num = len(images)
    return Detections(
        num_classes=2,
        class_indices=np.zeros(num, np.int32),
        raw_scores=np.full(num, 0.5),
        image_indices=np.array(images, np.int64),
        outcomes=np.array(is_correct, np.int8),
        weights=np.ones(num) if weights is None else np.array(weights),
    )


@settings(deadline=None)
@given(st.integers(1, 200).flatmap(lambda num: st.tuples(st.integers(0, num), st.just(num))))
def test_exact_interval_is_scipys(counts: tuple[int, int]) -> None:
    num_correct, num = counts
    theirs = binomtest(num_correct, num).proportion_ci(0.95, method="exact")
    low, high = exact_interval(np.array([num_correct / num]), np.array([float(num)]))
    assert (low[0], high[0]) == pytest.approx((theirs.low, theirs.high), abs=1e-7)


def test_nothing_known_is_the_whole_range() -> None:
    low, high = exact_interval(np.array([0.5, np.nan]), np.array([0.0, 0.0]))
    assert (low[0], high[0]) == (0.0, 1.0)
    assert np.isnan([low[1], high[1]]).all()


def test_independent_detections_count_in_full() -> None:
    # One per image, 30 of 40 correct: V = 40/39 * (30 * 0.25^2 + 10 * 0.75^2) / 40^2 = 0.75 * 0.25 / 39.
    found = scored_accuracy(detections_of(list(range(40)), [True] * 30 + [False] * 10))
    assert found.accuracy[0] == 0.75
    assert found.num_effective[0] == pytest.approx(39)
    assert np.isnan([found.accuracy[1], found.low[1], found.high[1]]).all()
    assert found.num_effective[1] == 0


def test_detections_of_an_image_that_go_together_count_as_one() -> None:
    images = np.repeat(np.arange(40), 5).tolist()
    together = scored_accuracy(detections_of(images, np.repeat([True] * 30 + [False] * 10, 5).tolist()))
    # (t of 199 degrees / t of 39 degrees)^2 = 0.9505
    assert together.num_effective[0] == pytest.approx(39 * 0.9505, rel=1e-3)
    alike = np.tile([True, True, True, True, False], 40)
    alike[4], alike[5] = True, False
    apart = scored_accuracy(detections_of(images, alike.tolist()))
    assert apart.num_effective[0] == 200, "never more than the number of detections"


def test_where_all_are_right_images_count() -> None:
    found = scored_accuracy(detections_of([0] * 10 + [1, 2], [True] * 12))
    assert found.num_effective[0] == pytest.approx(144 / 102)
    assert found.high[0] == 1.0
    assert found.low[0] < 0.3


def test_weights_move_the_accuracy_and_cost_effective_detections() -> None:
    # 10 of weight 1 with 5 correct, and 10 of weight 9 with 4 correct.
    outcomes = [True] * 5 + [False] * 5 + [True] * 4 + [False] * 6
    weighted = scored_accuracy(detections_of(list(range(20)), outcomes, [1.0] * 10 + [9.0] * 10))
    assert weighted.accuracy[0] == pytest.approx(41 / 100)
    squares = 5 * 0.59**2 + 5 * 0.41**2 + 4 * (9 * 0.59) ** 2 + 6 * (9 * 0.41) ** 2
    assert weighted.num_effective[0] == pytest.approx(0.41 * 0.59 / (20 / 19 * squares / 100**2))


def test_ignored_detections_do_not_count() -> None:
    some = detections_of([0, 1, 2], [True, False, True])
    more = detections_of([0, 1, 2, 2, 3], [True, False, True, True, True])
    outcomes = more.known_outcomes.copy()
    outcomes[3:] = Outcome.IGNORED
    ignored = Detections(**{**vars(more), "outcomes": outcomes})
    for one, other in zip(vars(scored_accuracy(some)).values(), vars(scored_accuracy(ignored)).values(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_intervals_cover_the_truth_of_clustered_detections() -> None:
    """With up to six dependent detections per image, the 95% intervals cover and binomial intervals do not."""
    rng = np.random.default_rng(0)
    num_covered, num_naive, num_draws = 0, 0, 600
    for _ in range(num_draws):
        sizes = rng.integers(1, 7, 25)
        shares = rng.beta(0.6, 0.9, 25)
        images = np.repeat(np.arange(25), sizes)
        found = detections_of(images.tolist(), (rng.random(len(images)) < shares[images]).tolist())
        accuracy = scored_accuracy(found)
        num_covered += accuracy.low[0] <= 0.4 <= accuracy.high[0]
        low, high = exact_interval(accuracy.accuracy[:1], np.array([float(len(images))]))
        num_naive += low[0] <= 0.4 <= high[0]
    assert num_covered / num_draws > 0.93
    assert num_naive / num_draws < 0.85, "intervals for independent detections"
