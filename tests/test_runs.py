"""Batched runs against pycocotools and the definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from raylabel.masks import decode_rles, encode_masks, first_bad_rle, mask_areas
from raylabel.runs import MaskPairs, RunsError, decode_runs

sizes = st.tuples(st.integers(1, 12), st.integers(1, 12))
mask_lists = st.lists(sizes.flatmap(lambda size: arrays(bool, size)), max_size=8)
stacks = st.tuples(st.integers(1, 6), st.integers(1, 12), st.integers(1, 12)).flatmap(lambda shape: arrays(bool, shape))


def encoded(masks: list[np.ndarray]) -> list:
    return [encode_masks(mask_HW[None])[0] for mask_HW in masks]


@given(mask_lists)
def test_foreground_of_every_mask_lies_where_it_is(masks):
    runs = decode_rles(encoded(masks))
    line = np.zeros(int(runs.origins[-1]), dtype=bool)
    for start, end in zip(runs.starts, runs.ends, strict=True):
        assert not line[start:end].any()
        line[start:end] = True
    for mask_HW, origin in zip(masks, runs.origins[:-1], strict=True):
        np.testing.assert_array_equal(line[origin : origin + mask_HW.size], mask_HW.ravel(order="F"))
    np.testing.assert_array_equal(runs.areas, [mask_HW.sum() for mask_HW in masks])
    assert (np.diff(runs.starts) >= 0).all()


@given(stacks, st.data())
def test_pixels_in_common(masks_NHW, data):
    runs = decode_rles(encode_masks(masks_NHW))
    num = len(masks_NHW)
    pairs = data.draw(st.lists(st.tuples(st.integers(0, num - 1), st.integers(0, num - 1)), max_size=12))
    ours, others = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    expected = [int((masks_NHW[one] & masks_NHW[other]).sum()) for one, other in pairs]
    chosen = MaskPairs(runs, ours, runs, others)
    assert chosen.num_in_common().tolist() == expected
    assert chosen.swapped().num_in_common().tolist() == expected
    assert (chosen.most_in_common() >= expected).all()


def test_disjoint_spans_are_told_apart_by_the_bound():
    masks_NHW = np.zeros((2, 4, 8), dtype=bool)
    masks_NHW[0, :, :4], masks_NHW[1, :, 4:] = True, True
    runs = decode_rles(encode_masks(masks_NHW))
    assert MaskPairs(runs, np.array([0]), runs, np.array([1])).most_in_common().tolist() == [0]


def test_long_runs():
    """Runs of 3 to 5 bytes, and differences of either sign."""
    masks_NHW = np.zeros((3, 3000, 900), dtype=bool)
    masks_NHW[0, 100:, 300] = True
    masks_NHW[1, :, 2:890] = True
    masks_NHW[2, ::7, 5] = True
    rles = encode_masks(masks_NHW)
    runs = decode_rles(rles)
    assert runs.areas.tolist() == [2900, 3000 * 888, 429]
    np.testing.assert_array_equal(runs.areas, coco_mask.area(rles))
    assert MaskPairs(runs, np.array([0, 0]), runs, np.array([1, 2])).num_in_common().tolist() == [2900, 0]


def test_runs_beyond_32_bits_are_read():
    # One background run of 2**33: 7 bytes, 5 bits each, lowest first.
    written = bytes([48 + 32] * 6 + [48 + 8])
    assert decode_runs([written], np.array([2**33])).areas.tolist() == [0]
    with pytest.raises(RunsError, match="more than 7 bytes"):
        decode_runs([bytes([48 + 32] * 7 + [49])], np.array([1]))


def test_more_masks_than_a_byte_counts():
    """pycocotools' `area` fails on 256 masks with numpy 2."""
    assert mask_areas(encode_masks(np.ones((300, 2, 3), dtype=bool))).tolist() == [6] * 300


@given(st.lists(st.binary(max_size=5), min_size=1, max_size=30), st.integers(0, 2500))
def test_first_bad_is_found_among_many(counts, num_good):
    good = encode_masks(np.ones((1, 2, 3), dtype=bool))[0]
    rles = [good] * num_good + [{"size": [2, 3], "counts": one} for one in counts]
    alone = [place for place, rle in enumerate(rles) if rle is not good and first_bad_rle([rle]) is not None]
    found = first_bad_rle(rles)
    if not alone:
        assert found is None
    else:
        assert found is not None
        place, message = found
        assert place == alone[0]
        assert message == first_bad_rle([rles[place]])[1]
