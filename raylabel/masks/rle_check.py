"""Compressed run lengths of many masks, checked together: one by one, each byte would cost a step of Python."""

from collections.abc import Sequence

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


def check_runs(counts: Sequence[bytes], num_pixels: NDArray[np.int64]) -> None:
    """Check that COCO's compressed run lengths decode and fill their masks exactly.

    Args:
        counts: N masks' bytes.
        num_pixels: (N,) height * width, to which each mask's runs must sum.

    Raises:
        RunsError: one of the masks is not sound; the message does not say which.

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
    padded = np.zeros(len(is_filled), dtype=np.int64)
    padded[is_filled] = deltas
    background, foreground = padded[0::2].copy(), padded[1::2].copy()
    has_runs = num_runs > 0
    firsts, has_more = pair_offsets[:-1][has_runs], num_pairs[has_runs] > 1
    if len(firsts):
        # One running sum over all masks undoes the differences: at its first run each mask takes back where the one
        # before it ended. The first background run of a mask is the base of no other.
        leading = background[firsts]
        reached = np.add.reduceat(background, firsts)
        reached[has_more] -= leading[has_more]
        background[firsts[1:]] -= reached[:-1]
        background[firsts[has_more] + 1] -= leading[has_more]
        foreground[firsts[1:]] -= np.add.reduceat(foreground, firsts)[:-1]
        np.cumsum(background, out=background)
        np.cumsum(foreground, out=foreground)
        foreground[padding // 2] = 0
        if min(background.min(), foreground.min()) < 0:
            raise RunsError("RLE counts have a run of negative length")
    ends = np.concatenate([[0], np.cumsum(background + foreground)])
    totals = np.diff(ends[pair_offsets])
    wrong = np.flatnonzero(totals != num_pixels)
    if len(wrong):
        raise RunsError(f"RLE counts must sum to {num_pixels[wrong[0]]}, got {totals[wrong[0]]}")


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
