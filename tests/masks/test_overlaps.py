"""Overlaps by a sweep over runs against pycocotools."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from raylabel.masks import overlaps
from raylabel.masks.overlaps import find_overlaps
from raylabel.masks.rle import Rle, encode_masks, mask_areas, mask_iou

stacks = array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=12).flatmap(lambda shape: arrays(bool, shape))


def assert_as_pycocotools(masks: list[Rle]) -> None:
    found, expected = find_overlaps(masks), mask_iou(masks, masks, [False] * len(masks))
    np.fill_diagonal(expected, 0.0)  # a mask is no pair with itself
    np.testing.assert_array_equal([found.ones, found.others], np.nonzero(expected))
    np.testing.assert_array_equal(found.iou, expected[found.ones, found.others])
    np.testing.assert_array_equal(found.areas, mask_areas(masks))


@given(stacks, st.sampled_from([1, 5, 1 << 16]))
def test_every_bit_is_that_of_pycocotools(masks_NHW: np.ndarray, num_pairs: int) -> None:
    masks = encode_masks(masks_NHW)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlaps, "_PAIRS_AT_A_TIME", num_pairs)
        assert_as_pycocotools(masks)


def test_many_ragged_masks() -> None:
    rng = np.random.default_rng(0)
    masks = encode_masks(rng.random((60, 90, 70)) < rng.random((60, 1, 1)))
    assert_as_pycocotools(masks)
