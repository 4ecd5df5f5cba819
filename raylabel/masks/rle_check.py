"""Compressed run lengths of many masks, decoded and checked at once. One by one, each byte would cost a Python step."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_LEADING_BYTES = bytes(range(48 + 32, 48 + 64))
"""Bytes that do not end a run."""

_LAST_BITS = bytes(((byte - 48 & 31) ^ 16) - 16 & 255 for byte in range(256))
"""Value of a run's last byte as int8. The highest of its five bits is the sign."""

_MAX_RUN_BYTES = 7
"""Bytes that a run of 32 bits and its sign need, at 5 bits per byte."""

_WIDE_RUN_BYTES = 6
"""Largest number of bytes whose run fits 32 bits."""


class RunsError(ValueError):
    """Counts that do not encode a mask."""


def check_runs(counts: Sequence[bytes], num_pixels: NDArray[np.int64]) -> None:
    """Check that COCO's compressed run lengths decode and fill their masks exactly.

    Args:
        counts: bytes of N masks.
        num_pixels: (N,) height * width. Each mask's runs must sum to it.

    Raises:
        RunsError: a mask is not sound. The message does not name the mask.
    """
    background, foreground, num_pairs = decode_runs(counts)
    if len(background) and min(background.min(), foreground.min()) < 0:
        raise RunsError("RLE counts have a run of negative length")
    ends = np.concatenate([[0], np.cumsum(background + foreground)])
    totals = np.diff(ends[np.concatenate([[0], np.cumsum(num_pairs)])])
    wrong = np.flatnonzero(totals != num_pixels)
    if len(wrong):
        raise RunsError(f"RLE counts must sum to {num_pixels[wrong[0]]}, got {totals[wrong[0]]}")


def decode_runs(
    counts: Sequence[bytes],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Decode COCO's compressed run lengths.

    Runs of background and foreground alternate. From the fourth run on, a run is stored as its difference to the run
    two before. Each byte holds 5 bits, lowest first, and one bit for "more follows".

    Args:
        counts: bytes of N masks.

    Returns:
        The lengths of runs of background, those of the runs of foreground that follow, and the (N,) number of such
        pairs per mask. A missing last run of foreground has length 0.

    Raises:
        RunsError: the bytes are no runs. Lengths of unsound masks may be negative.

    Source: `rleToString` in pycocotools' maskApi.c.
    """
    deltas, num_runs = _read_deltas(counts)
    # Every mask gets an even number of places, because background goes to even and foreground to odd places.
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
        # One running sum over all masks undoes the differences, because each mask's first run subtracts the end of the
        # mask before. No difference refers to a mask's first background run.
        leading = background[firsts]
        reached = np.add.reduceat(background, firsts)
        reached[has_more] -= leading[has_more]
        background[firsts[1:]] -= reached[:-1]
        background[firsts[has_more] + 1] -= leading[has_more]
        foreground[firsts[1:]] -= np.add.reduceat(foreground, firsts)[:-1]
        np.cumsum(background, out=background)
        np.cumsum(foreground, out=foreground)
        foreground[padding // 2] = 0
    return background, foreground, num_pairs


def _read_deltas(counts: Sequence[bytes]) -> tuple[NDArray[np.signedinteger], NDArray[np.int64]]:
    """Decode the stored numbers of all masks, and count them per mask."""
    joined = b"".join(counts)
    codes = np.frombuffer(joined, dtype=np.uint8) - np.uint8(48)
    if len(codes) and codes.max() > 63:
        raise RunsError(f"RLE counts must be bytes from 48 to 111, got {joined[int(np.argmax(codes > 63))]}")
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
        # Each run takes its next byte, from its end backwards.
        is_next = np.diff(runs, append=-1) != 0
        of_runs = runs[is_next]
        deltas[of_runs] = (deltas[of_runs] << 5) + (codes[leading[is_next]] & 31)
        leading, runs = leading[~is_next], runs[~is_next]
    raise RunsError(f"RLE counts have a run of more than {_MAX_RUN_BYTES} bytes")
