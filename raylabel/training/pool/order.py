"""The order in which a student sees the pool, with only a few shards in memory.

An epoch goes through the shards in random order, one *window* of a few shards at a time. The draws of a window are
shuffled. The number of draws per shard is the sum of its images' repeat factors. The order depends only on the seed and
the number of the draw, so training resumes exactly with any number of ranks.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WINDOW_DRAWS = 2048
"""A window holds the shards whose draws begin within this many draws, and at least one shard."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """A group of shards whose draws are shuffled together.

    Attributes:
        key: epoch, and number of the window within the epoch.
        shards: positions of the shards, in their order.
        firsts: position of each shard's first draw on the line of its images' repeat factors. Later draws follow at
            distances of 1.
        num_draws: number of draws from each shard.
    """

    key: tuple[int, int]
    shards: NDArray[np.int64]
    firsts: NDArray[np.float64]
    num_draws: NDArray[np.int64]

    def images(self, factor_ends: list[NDArray[np.float64]], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shuffle the draws of the window. Returns, per draw, the place in `shards` and the image in that shard.

        Args:
            factor_ends: for each of `shards`, the running sum of its images' repeat factors.
            seed: non-negative seed of the shuffle.
        """
        images = [
            np.minimum(np.searchsorted(ends, first + np.arange(num), side="right"), len(ends) - 1)
            for ends, first, num in zip(factor_ends, self.firsts, self.num_draws, strict=True)
        ]
        mixed = np.random.default_rng([seed, *self.key]).permutation(int(self.num_draws.sum()))
        places = np.repeat(np.arange(len(self.shards)), self.num_draws)
        return places[mixed], np.concatenate(images)[mixed]


@dataclass(frozen=True)
class _Epoch:
    order: NDArray[np.int64]
    firsts: NDArray[np.float64]
    num_draws: NDArray[np.int64]
    starts: NDArray[np.int64]
    windows: NDArray[np.int64]


class PoolOrder:
    """The sequence of draws, each a function of its number.

    The repeat factors of all images lie on one line, shard after shard. An epoch draws the images that are hit by a
    comb whose teeth are 1 apart (systematic resampling). So an epoch draws an image its factor times, rounded up or
    down.

    Args:
        shard_factors: (num_shards,) sum of the repeat factors of each shard's images.
        seed: non-negative seed of the order.
        window_draws: see `WINDOW_DRAWS`.
    """

    def __init__(self, shard_factors: NDArray[np.float64], seed: int, *, window_draws: int = WINDOW_DRAWS) -> None:
        self.ends = np.cumsum(shard_factors)
        if not len(self.ends) or self.ends[-1] < 1:
            raise ValueError("shard_factors must sum to at least 1: the pool has no readable image")
        self.seed = seed
        self._window_draws = window_draws
        self._epoch_starts = [0]
        self._latest: tuple[int, _Epoch] | None = None

    def locate(self, draw: int) -> tuple[Window, int]:
        """Find the window of a draw, and the place of the draw in that window."""
        while self._epoch_starts[-1] <= draw:
            self._epoch_starts.append(self._epoch_starts[-1] + self._length(len(self._epoch_starts) - 1))
        number = int(np.searchsorted(self._epoch_starts, draw, side="right")) - 1
        epoch, place = self._epoch(number), draw - self._epoch_starts[number]
        window = epoch.windows[np.searchsorted(epoch.starts, place, side="right") - 1]
        members = slice(*np.searchsorted(epoch.windows, [window, window + 1]))
        found = Window(
            key=(number, int(window)),
            shards=epoch.order[members],
            firsts=epoch.firsts[members],
            num_draws=epoch.num_draws[members],
        )
        return found, int(place - epoch.starts[members.start])

    def _epoch(self, number: int) -> _Epoch:
        if self._latest is None or self._latest[0] != number:
            rng = np.random.default_rng([self.seed, number])
            offset = rng.random()
            begins = np.concatenate([[0.0], self.ends])
            teeth = np.ceil(begins - offset).astype(np.int64)
            order = rng.permutation(len(self.ends))
            order = order[np.diff(teeth)[order] > 0]
            num_draws = np.diff(teeth)[order]
            firsts = teeth[order] + offset - begins[order]
            starts = np.cumsum(num_draws) - num_draws
            self._latest = number, _Epoch(order, firsts, num_draws, starts, starts // self._window_draws)
        return self._latest[1]

    def _length(self, epoch: int) -> int:
        return int(np.ceil(self.ends[-1] - np.random.default_rng([self.seed, epoch]).random()))
