"""Runs of many masks at once, as flat arrays: what is asked of every pair of a data set has no time for a call each.

pycocotools decodes a mask again at each call and answers for one list against another. Here all masks are decoded
together in a few passes over their bytes, and overlaps are counted for exactly the pairs that are asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LEADING_BYTES = bytes(range(48 + 32, 48 + 64))
"""Bytes that more of the same run follow."""

_LAST_BITS = bytes(((byte - 48 & 31) ^ 16) - 16 & 255 for byte in range(256))
"""What a run's last byte stands for, as int8: the highest of its five bits is the sign."""

_MAX_RUN_BYTES = 7
"""5 bits a byte: as many as a run of 32 bits and its sign need."""

_WIDE_RUN_BYTES = 6
"""Runs of more bytes than this do not fit 32 bits."""


class RunsError(ValueError):
    """Counts that are not the encoding of a mask."""


@dataclass(frozen=True)
class MaskRuns:
    """Foreground runs of N masks that lie one after the other on a line of pixels, each in column-major order.

    Attributes:
        starts: (R,) int64, place on the line of each run's first pixel; rising, a run may be empty.
        ends: (R,) int64, place behind its last pixel.
        run_offsets: (N + 1,) int64; mask i has the runs from `run_offsets[i]` to `run_offsets[i + 1]`.
        origins: (N + 1,) int64; mask i has the pixels from `origins[i]` to `origins[i + 1]`.
        num_before: (R + 1,) int64, foreground pixels of all runs before each one.
    """

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    run_offsets: NDArray[np.int64]
    origins: NDArray[np.int64]
    num_before: NDArray[np.int64]

    @staticmethod
    def concat(first: "MaskRuns", second: "MaskRuns") -> "MaskRuns":
        """The masks of both, one after the other."""
        shift = first.origins[-1]
        return MaskRuns(
            starts=np.concatenate([first.starts, second.starts + shift]),
            ends=np.concatenate([first.ends, second.ends + shift]),
            run_offsets=np.concatenate([first.run_offsets, second.run_offsets[1:] + first.run_offsets[-1]]),
            origins=np.concatenate([first.origins, second.origins[1:] + shift]),
            num_before=np.concatenate([first.num_before, second.num_before[1:] + first.num_before[-1]]),
        )

    @property
    def areas(self) -> NDArray[np.int64]:
        """(N,) foreground pixels of each mask."""
        return np.diff(self.num_before[self.run_offsets])

    @property
    def spans(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Place of each mask's first foreground pixel in the mask and the place behind its last, (N,) each; a mask
        without foreground may have any."""
        if not len(self.starts):
            return np.zeros_like(self.origins[:-1]), np.zeros_like(self.origins[:-1])
        firsts = np.minimum(self.run_offsets[:-1], len(self.starts) - 1)
        lasts = np.maximum(self.run_offsets[1:] - 1, firsts)
        # The last run is empty where an encoded mask ends in background.
        lasts -= (self.starts[lasts] == self.ends[lasts]) & (lasts > firsts)
        return self.starts[firsts] - self.origins[:-1], self.ends[lasts] - self.origins[:-1]

    def num_foreground_before(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Foreground pixels of the line before each place, same shape."""
        if not len(self.starts):
            return np.zeros_like(places)
        runs = np.searchsorted(self.starts, places, side="right") - 1
        found = np.minimum(places, self.ends[runs])
        found -= self.starts[runs]
        found += self.num_before[runs]
        found *= runs >= 0
        return found

    def num_within(
        self, masks: NDArray[np.integer], lows: NDArray[np.int64], highs: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Foreground pixels of some masks from one place in the mask up to another, (P,)."""
        origins = self.origins[masks]
        return self.num_foreground_before(origins + highs) - self.num_foreground_before(origins + lows)


def decode_runs(counts: Sequence[bytes], num_pixels: NDArray[np.int64]) -> MaskRuns:
    """Decode COCO's compressed run lengths.

    Args:
        counts: N masks' bytes.
        num_pixels: (N,) height * width, to which each mask's runs must sum.

    Raises:
        RunsError: a mask's bytes are not of the encoding, or its runs do not fill it; the message does not say which.

    Source: the format of `rleToString` in pycocotools' maskApi.c: runs of background and foreground in turn, from the
        fourth on as the difference to the run two before, 5 bits a byte, lowest first, with a bit for "more follows".
    """
    deltas, num_runs = _read_deltas(counts)
    # Every mask gets an even number of places: background at even places, foreground at odd ones.
    num_pairs = (num_runs + 1) // 2
    pair_offsets = np.concatenate([[0], np.cumsum(num_pairs)])
    padding = 2 * pair_offsets[1:][num_runs % 2 == 1] - 1
    is_filled = np.ones(2 * pair_offsets[-1], dtype=bool)
    is_filled[padding] = False
    padded = np.zeros(len(is_filled), dtype=deltas.dtype)
    padded[is_filled] = deltas
    background, foreground = padded[0::2].copy(), padded[1::2].copy()
    is_filled_mask = num_runs > 0
    firsts, has_more = pair_offsets[:-1][is_filled_mask], num_pairs[is_filled_mask] > 1
    if len(firsts):
        # One running sum over all masks undoes the differences: at its first run each mask takes back where the one
        # before it ended. The first background run of a mask is the base of no other.
        leading = background[firsts]
        reached = np.add.reduceat(background, firsts)
        reached[has_more] -= leading[has_more]
        background[firsts[1:]] -= reached[:-1]
        background[firsts[has_more] + 1] -= leading[has_more]
        foreground[firsts[1:]] -= np.add.reduceat(foreground, firsts)[:-1]
        np.cumsum(background, out=background, dtype=background.dtype)
        np.cumsum(foreground, out=foreground, dtype=foreground.dtype)
        foreground[padding // 2] = 0
        if min(background.min(), foreground.min()) < 0:
            raise RunsError("RLE counts have a run of negative length")
    ends = np.cumsum(np.add(background, foreground, dtype=np.int64))
    totals = np.diff(np.concatenate([[0], ends])[pair_offsets])
    wrong = np.flatnonzero(totals != num_pixels)
    if len(wrong):
        raise RunsError(f"RLE counts must sum to {num_pixels[wrong[0]]}, got {totals[wrong[0]]}")
    num_before = np.zeros(len(foreground) + 1, dtype=np.int64)
    np.cumsum(foreground, out=num_before[1:], dtype=np.int64)
    return MaskRuns(
        starts=ends - foreground,
        ends=ends,
        run_offsets=pair_offsets,
        origins=np.concatenate([[0], np.cumsum(num_pixels)]),
        num_before=num_before,
    )


def _read_deltas(counts: Sequence[bytes]) -> tuple[NDArray[np.signedinteger], NDArray[np.int64]]:
    """The numbers of all masks as they are written, and how many each mask has."""
    joined = b"".join(counts)
    codes = np.frombuffer(joined, dtype=np.uint8) - np.uint8(48)
    if len(codes) and codes.max() > 63:
        raise RunsError(f"RLE counts have a byte that is not of the encoding: {joined[int(np.argmax(codes > 63))]}")
    num_bytes = np.fromiter(map(len, counts), dtype=np.int64, count=len(counts))
    byte_offsets = np.concatenate([[0], np.cumsum(num_bytes)])
    if (codes[byte_offsets[1:][num_bytes > 0] - 1] > 31).any():
        raise RunsError("RLE counts end within a run")
    leading = np.flatnonzero(codes > 31)
    num_runs = num_bytes - np.diff(np.searchsorted(leading, byte_offsets))
    deltas = np.frombuffer(joined.translate(_LAST_BITS, _LEADING_BYTES), dtype=np.int8).astype(np.int32)
    runs = leading - np.arange(len(leading))
    for depth in range(1, _MAX_RUN_BYTES + 1):
        if not len(leading):
            return deltas, num_runs
        if depth == _WIDE_RUN_BYTES:
            deltas = deltas.astype(np.int64)
        # Of each run, from its end, the next byte.
        is_next = np.diff(runs, append=-1) != 0
        of_runs = runs[is_next]
        deltas[of_runs] = (deltas[of_runs] << 5) + (codes[leading[is_next]] & 31)
        leading, runs = leading[~is_next], runs[~is_next]
    raise RunsError(f"RLE counts have a run of more than {_MAX_RUN_BYTES} bytes")


@dataclass(frozen=True)
class MaskPairs:
    """Pairs of masks of the same size.

    Attributes:
        runs, masks: one side, and which of its masks each pair has, (P,).
        other_runs, other_masks: the other side, likewise.
    """

    runs: MaskRuns
    masks: NDArray[np.integer]
    other_runs: MaskRuns
    other_masks: NDArray[np.integer]

    def subset(self, rows: NDArray[Any]) -> "MaskPairs":
        """The chosen pairs."""
        return MaskPairs(self.runs, self.masks[rows], self.other_runs, self.other_masks[rows])

    def swapped(self) -> "MaskPairs":
        """The same pairs, the sides exchanged."""
        return MaskPairs(self.other_runs, self.other_masks, self.runs, self.masks)

    def most_in_common(self) -> NDArray[np.int64]:
        """(P,) a bound on the pixels in common, at a fraction of their cost: the part of each mask that lies within
        the other's span."""
        lows, highs = self._common_spans()
        ours = self.runs.num_within(self.masks, lows, highs)
        return np.minimum(ours, self.other_runs.num_within(self.other_masks, lows, highs))

    def num_in_common(self) -> NDArray[np.int64]:
        """(P,) pixels that both masks have.

        The foreground runs of the mask with fewer of them are looked up in the running count of the other one.
        """
        is_longer = np.diff(self.runs.run_offsets)[self.masks] > np.diff(self.other_runs.run_offsets)[self.other_masks]
        found = np.zeros(len(self.masks), dtype=np.int64)
        found[~is_longer] = self.subset(~is_longer)._walk()
        found[is_longer] = self.subset(is_longer).swapped()._walk()
        return found

    def _common_spans(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        (starts, ends), (other_starts, other_ends) = self.runs.spans, self.other_runs.spans
        lows = np.maximum(starts[self.masks], other_starts[self.other_masks])
        return lows, np.maximum(np.minimum(ends[self.masks], other_ends[self.other_masks]), lows)

    def _walk(self) -> NDArray[np.int64]:
        lows, highs = self._common_spans()
        origins = self.runs.origins[self.masks]
        first_runs = np.searchsorted(self.runs.ends, origins + lows, side="right")
        num_runs = np.maximum(np.searchsorted(self.runs.starts, origins + highs, side="left") - first_runs, 0)
        offsets = np.concatenate([[0], np.cumsum(num_runs)])
        rows = np.arange(offsets[-1]) + np.repeat(first_runs - offsets[:-1], num_runs)
        shift = np.repeat(self.other_runs.origins[self.other_masks] - origins, num_runs)
        common = self.other_runs.num_foreground_before(self.runs.ends[rows] + shift)
        common -= self.other_runs.num_foreground_before(self.runs.starts[rows] + shift)
        return np.diff(np.concatenate([[0], np.cumsum(common)])[offsets])
