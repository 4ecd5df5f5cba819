"""In which order a pool's images are learnt from, when no more of it than a few shards may be in memory.

An epoch goes through the shards in a random order, a *window* of a few of them at a time; the draws of a window are
mixed. Each shard has as many draws as its images' repeat factors sum up to. All of it depends on the seed and the
number of the draw alone, so that training resumes exactly, whatever the number of ranks.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WINDOW_DRAWS = 2048
"""A window has the shards whose draws begin within so many; at least one shard."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """Shards that are learnt from together.

    Attributes:
        key: epoch and number of the window in it.
        shards: positions of its shards, in their order.
        firsts: where the first draw of each lies on the line of its images' repeat factors; the others follow at a
            distance of 1.
        num_draws: draws from each.
    """

    key: tuple[int, int]
    shards: NDArray[np.int64]
    firsts: NDArray[np.float64]
    num_draws: NDArray[np.int64]

    def images(self, factor_ends: list[NDArray[np.float64]], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Place in `shards` and image in the shard of each draw of the window, mixed.

        Args:
            factor_ends: of each of `shards`, the running sum of its images' repeat factors.
            seed: non-negative.
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
    """Draws as a function of their number.

    Repeat factors of all images lie on one line, shard after shard, and an epoch draws where a comb of teeth at a
    distance of 1 hits it (systematic resampling): an image is drawn floor or ceil of its factor an epoch.

    Args:
        shard_factors: (num_shards,) sum of the repeat factors of each shard's images.
        seed: non-negative.
        window_draws: see WINDOW_DRAWS.
    """

    def __init__(self, shard_factors: NDArray[np.float64], seed: int, *, window_draws: int = WINDOW_DRAWS) -> None:
        self.ends = np.cumsum(shard_factors)
        if not len(self.ends) or self.ends[-1] < 1:
            raise ValueError("an order needs images")
        self.seed = seed
        self._window_draws = window_draws
        self._epoch_starts = [0]
        self._latest: tuple[int, _Epoch] | None = None

    def locate(self, draw: int) -> tuple[Window, int]:
        """The window that a draw is in, and which draw of the window it is."""
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
