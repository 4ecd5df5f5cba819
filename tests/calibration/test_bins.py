"""Bins merge to the same result for every partition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylabel.calibration import Detections, ReliabilityBins
from raylabel.calibration.bins import bin_edges, bin_of
from raylabel.predictions.matching import Outcome

COUNTS = ("num", "sum_confidence", "num_correct", "num_ignored")


def random_detections(seed: int, num: int, num_classes: int = 3) -> Detections:
    rng = np.random.default_rng(seed)
    return Detections(
        num_classes=num_classes,
        class_indices=rng.integers(0, num_classes, num).astype(np.int32),
        raw_scores=np.where(rng.random(num) < 0.5, rng.choice([0.0, 0.2, 1.0], num), rng.random(num)),
        image_indices=rng.integers(0, 5, num),
        outcomes=rng.integers(0, 3, num).astype(np.int8),
        weights=np.where(rng.random(num) < 0.5, 1.0, 1 + 30 * rng.random(num)),
    )


def assert_equal(one: ReliabilityBins, other: ReliabilityBins) -> None:
    for name in COUNTS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@pytest.mark.parametrize("num_bins", [2, 10, 15, 100])
def test_an_edge_belongs_to_the_bin_below(num_bins: int) -> None:
    edges = np.arange(num_bins + 1) / num_bins
    expected = [0, *range(num_bins)]
    assert bin_of(edges, num_bins).tolist() == expected
    assert bin_of(edges.astype(np.float32), num_bins).tolist() == expected, "the same after storing as float32"
    above = np.nextafter(bin_edges(num_bins)[:-1], np.float32(2))
    assert bin_of(above, num_bins).tolist() == list(range(num_bins))


@given(st.floats(0, 1), st.integers(2, 50))
def test_storing_a_score_does_not_move_it_to_another_bin(score: float, num_bins: int) -> None:
    scores = np.array([score])
    assert bin_of(scores, num_bins) == bin_of(scores.astype(np.float32), num_bins)
    place = int(bin_of(scores, num_bins)[0])
    assert place / num_bins - 1e-6 <= score <= (place + 1) / num_bins + 1e-6


def test_counts_by_hand() -> None:
    detections = Detections(
        num_classes=2,
        class_indices=np.array([0, 0, 0, 1], dtype=np.int32),
        raw_scores=np.array([0.5, 0.9, 1.0, 0.1]),
        image_indices=np.zeros(4, dtype=np.int64),
        outcomes=np.array([Outcome.CORRECT, Outcome.INCORRECT, Outcome.IGNORED, Outcome.INCORRECT], dtype=np.int8),
        weights=np.array([1.0, 3.0, 1.0, 2.0]),
    )
    bins = ReliabilityBins.from_detections(detections, 2)
    assert bins.num.tolist() == [[1.0, 3.0], [2.0, 0.0]]
    np.testing.assert_allclose(bins.sum_confidence, [[0.5, 2.7], [0.2, 0.0]])
    assert bins.num_correct.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert bins.num_ignored.tolist() == [[0.0, 1.0], [0.0, 0.0]]
    np.testing.assert_allclose(bins.confidence(), [[0.5, 0.9], [0.1, np.nan]])
    np.testing.assert_allclose(bins.accuracy(), [[1.0, 0.0], [0.0, np.nan]])
    assert bins.pooled().num.tolist() == [[3.0, 3.0]]
    assert bins.of_classes(np.array([False, True])).num.tolist() == [[2.0, 0.0]]


@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.lists(st.integers(0, 3), min_size=60, max_size=60))
def test_any_partition_in_any_order_gives_the_same_bins(seed: int, num: int, parts: list[int]) -> None:
    detections = random_detections(seed, num)
    whole = ReliabilityBins.from_detections(detections, 5)
    places = np.array(parts[:num], dtype=int)
    pieces = [ReliabilityBins.from_detections(detections.subset(places == part), 5) for part in range(4)]
    first, second, third, fourth = pieces
    assert_equal((first + second) + (third + fourth), whole)
    assert_equal(fourth + (third + (second + first)), whole)
    assert_equal((second + fourth) + (first + third), whole)
    order = np.random.default_rng(seed).permutation(num)
    assert_equal(ReliabilityBins.from_detections(detections.subset(order), 5), whole)
    assert_equal(whole + ReliabilityBins.zeros(3, 5), whole)
    assert whole.num.sum() + whole.num_ignored.sum() == pytest.approx(detections.weights.sum())


def test_many_shards_in_any_order_give_the_same_bins() -> None:
    detections = random_detections(1, 300_000)
    whole = ReliabilityBins.from_detections(detections, 15)
    rng = np.random.default_rng(2)
    for num_shards in (7, 300):
        shards = [
            ReliabilityBins.from_detections(detections.subset(rows), 15)
            for rows in np.array_split(rng.permutation(len(detections)), num_shards)
        ]
        assert_equal(sum(shards, ReliabilityBins.zeros(3, 15)), whole)
        assert_equal(sum(shards[::-1], ReliabilityBins.zeros(3, 15)), whole)
    plain = np.bincount(detections.class_indices, detections.weights * detections.is_scored * detections.raw_scores)
    np.testing.assert_allclose(whole.sum_confidence.sum(axis=1), plain, rtol=1e-9)
    assert (whole.num_correct <= whole.num).all()


@given(st.lists(st.floats(0, 1), max_size=50), st.integers(2, 400))
def test_bins_equal_a_search_among_the_edges(scores: list[float], num_bins: int) -> None:
    edges = bin_edges(num_bins)
    beside = np.concatenate([edges, np.nextafter(edges, np.float32(2)), np.nextafter(edges, np.float32(-1))])
    singles = np.concatenate([np.array(scores, dtype=np.float32), beside.clip(0, 1)])
    expected = np.clip(np.searchsorted(edges, singles, side="left") - 1, 0, num_bins - 1)
    np.testing.assert_array_equal(bin_of(singles, num_bins), expected)


@given(st.integers(0, 2**32 - 1), st.integers(0, 40))
def test_table_round_trip(seed: int, num: int) -> None:
    bins = ReliabilityBins.from_detections(random_detections(seed, num, num_classes=7), 5)
    table = bins.to_table()
    assert table.num_rows <= min(num, 35), "empty bins are left out"
    back = ReliabilityBins.from_table(table)
    for name in COUNTS:
        np.testing.assert_array_equal(getattr(back, name), getattr(bins, name))


def test_bins_of_other_scores() -> None:
    detections = random_detections(0, 20)
    bins = ReliabilityBins.from_detections(detections, 5, np.full(20, 0.5))
    assert bins.num[:, [0, 1, 3, 4]].sum() == 0


def test_other_shapes_and_unknown_outcomes_are_refused() -> None:
    with pytest.raises(ValueError, match="same shape"):
        _ = ReliabilityBins.zeros(2, 5) + ReliabilityBins.zeros(2, 6)
    with pytest.raises(ValueError, match="outcomes are unknown"):
        ReliabilityBins.from_detections(Detections.of_scores([0], [0.5], num_classes=1), 5)
