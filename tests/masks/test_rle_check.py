"""Checking run lengths together finds what checking them one by one finds."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from raylabel.masks.rle import Rle, check_rle, encode_masks, first_bad_rle, mask_areas
from raylabel.masks.rle_check import RunsError, check_runs

sizes = st.tuples(st.integers(1, 12), st.integers(1, 12))
mask_lists = st.lists(sizes.flatmap(lambda size: arrays(bool, size)), max_size=8)
GOOD = encode_masks(np.ones((1, 2, 3), dtype=bool))[0]


def is_sound(rle: Rle) -> bool:
    """Check an RLE byte by byte, straight from the format's definition."""
    runs: list[int] = []
    value = shift = 0
    for byte in rle["counts"]:
        code = byte - 48
        if not 0 <= code < 64:
            return False
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (code & 16) << (shift - 4)
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    return shift == 0 and min(runs, default=0) >= 0 and sum(runs) == rle["size"][0] * rle["size"][1]


@given(mask_lists)
def test_encoded_masks_are_sound(masks):
    rles = [encode_masks(mask_HW[None])[0] for mask_HW in masks]
    assert all(map(is_sound, rles))
    assert first_bad_rle(rles) is None


def test_long_runs_and_big_differences():
    masks_NHW = np.zeros((3, 3000, 900), dtype=bool)
    masks_NHW[0, 100:, 300] = True
    masks_NHW[1, :, 2:890] = True
    masks_NHW[2, ::7, 5] = True
    assert first_bad_rle(encode_masks(masks_NHW)) is None


def test_runs_beyond_32_bits_are_read():
    # One background run of 2**33: 7 bytes, 5 bits each, lowest first.
    check_runs([bytes([48 + 32] * 6 + [48 + 8])], np.array([2**33]))
    with pytest.raises(RunsError, match="more than 7 bytes"):
        check_runs([bytes([48 + 32] * 7 + [49])], np.array([1]))


def test_more_masks_than_a_byte_counts():
    """pycocotools' `area` fails on 256 masks with NumPy 2."""
    assert mask_areas(encode_masks(np.ones((300, 2, 3), dtype=bool))).tolist() == [6] * 300


some_counts = st.one_of(
    st.binary(max_size=5),
    st.lists(st.integers(48, 111), max_size=5).map(bytes),
    st.lists(st.integers(48, 57), max_size=5).map(bytes),
)


@given(st.lists(some_counts, min_size=1, max_size=30), st.sampled_from([0, 1, 999, 1000, 2500]), st.integers(1, 9))
@settings(max_examples=300)
@example([b"", b"06"], 0, 6)
def test_the_first_bad_one_is_found_among_many(counts, num_good, width):
    rles = [GOOD] * num_good + [Rle(size=[1, width], counts=one) for one in counts]
    bad = [place for place, rle in enumerate(rles) if not is_sound(rle)]
    found = first_bad_rle(rles)
    assert (found is None) == (not bad)
    if found is not None:
        place, message = found
        assert place == bad[0]
        with pytest.raises(RunsError) as error:
            check_rle(rles[place])
        assert str(error.value) == message


@pytest.mark.parametrize("runs", [[2, -1, 5], [-1, 7], [3, 1, -2, 4]])
def test_a_negative_run_of_background_or_foreground_is_refused(runs: list[int]) -> None:
    """The runs sum to the 6 pixels of the mask. pycocotools would read outside of it."""
    deltas = [run - runs[place - 2] if place > 2 else run for place, run in enumerate(runs)]
    counts = bytes(48 + (delta & 31) for delta in deltas)  # one byte per run, because -16 <= delta < 16
    with pytest.raises(RunsError, match="a run of negative length"):
        check_runs([counts], np.array([6]))
