"""The order of the pool follows repeat factors, and depends only on the seed and the number of the draw."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from raylabel.training.pool.order import PoolOrder

Factors = list[NDArray[np.float64]]

shards_of_factors = st.lists(st.lists(st.floats(1, 5), min_size=1, max_size=9).map(np.array), min_size=1, max_size=8)


def new_order(factors: Factors, seed: int, window_draws: int) -> PoolOrder:
    return PoolOrder(np.array([np.cumsum(one)[-1] for one in factors]), seed, window_draws=window_draws)


def drawn(order: PoolOrder, factors: Factors, draws: range) -> tuple[list[tuple[int, int]], list[int]]:
    """Locate each draw: its shard and image, and its epoch."""
    images, epochs = [], []
    for draw in draws:
        window, place = order.locate(draw)
        places, rows = window.images([np.cumsum(factors[shard]) for shard in window.shards], order.seed)
        images.append((int(window.shards[places[place]]), int(rows[place])))
        epochs.append(window.key[0])
    return images, epochs


@given(shards_of_factors, st.integers(0, 2**31), st.integers(1, 30))
def test_every_image_is_drawn_floor_or_ceil_of_its_factor_an_epoch(
    factors: Factors, seed: int, window_draws: int
) -> None:
    images, epochs = drawn(
        new_order(factors, seed, window_draws), factors, range(2 * int(sum(map(np.sum, factors))) + 4)
    )
    assert epochs == sorted(epochs)
    assert max(epochs) >= 1
    for epoch in range(max(epochs)):  # because the last one is cut off
        counts = [np.zeros(len(one), int) for one in factors]
        for (shard, row), of_epoch in zip(images, epochs, strict=True):
            counts[shard][row] += of_epoch == epoch
        for count, factor in zip(counts, factors, strict=True):
            assert (count >= np.floor(factor + 1e-9)).all()
            assert (count <= np.ceil(factor - 1e-9)).all()


@given(shards_of_factors, st.integers(0, 2**31), st.integers(1, 30), st.integers(0, 300))
def test_a_draw_does_not_depend_on_those_before_it(factors: Factors, seed: int, window_draws: int, draw: int) -> None:
    used = new_order(factors, seed, window_draws)
    drawn(used, factors, range(20))
    part = range(draw, draw + 3)
    assert drawn(used, factors, part) == drawn(new_order(factors, seed, window_draws), factors, part)


def test_a_window_holds_few_shards_and_an_epoch_goes_through_each_shard_once() -> None:
    factors = [np.ones(10)] * 50
    order = new_order(factors, seed=1, window_draws=30)
    windows = [order.locate(draw)[0] for draw in range(500)]
    assert {len(window.shards) for window in windows} <= {2, 3}
    shards = [int(shard) for window in {window.key: window for window in windows}.values() for shard in window.shards]
    assert sorted(shards) == list(range(50))
    assert shards != sorted(shards), "the order is random"


def test_images_of_a_window_are_mixed_and_epochs_differ() -> None:
    factors = [np.ones(20)] * 4
    order = new_order(factors, seed=0, window_draws=1000)
    first, second = (drawn(order, factors, range(start, start + 80))[0] for start in (0, 80))
    assert sorted(first) == sorted(second)
    assert first != second
    assert len({shard for shard, _ in first[:10]}) > 1


def test_long_run_frequencies_follow_the_factors() -> None:
    factors = [np.array([1.0, 1.3]), np.array([2.6]), np.array([1.0])]
    images, _ = drawn(new_order(factors, seed=3, window_draws=3), factors, range(6000))
    counts = np.array([images.count(image) for image in ((0, 0), (0, 1), (1, 0), (2, 0))])
    np.testing.assert_allclose(counts / 6000, np.array([1.0, 1.3, 2.6, 1.0]) / 5.9, atol=0.006)
