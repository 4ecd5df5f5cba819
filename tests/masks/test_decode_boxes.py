"""Masks decoded inside their boxes are the masks."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raylabel.masks.decode_boxes import decode_boxes
from raylabel.masks.encode_boxes import encode_boxes
from raylabel.masks.rle import decode_masks, encode_masks


@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 30), st.integers(0, 6), st.floats(0, 1))
def test_boxes_are_tight_and_hold_the_masks(seed: int, height: int, width: int, num: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    masks_NHW = np.zeros((num, height, width), bool)
    for mask in masks_NHW:
        top, left = rng.integers(0, height), rng.integers(0, width)
        part = mask[top : rng.integers(top, height) + 1, left : rng.integers(left, width) + 1]
        part[:] = rng.random(part.shape) < share
    encoded = encode_masks(masks_NHW)
    boxes, corners = decode_boxes(encoded)
    assert encode_boxes(boxes, corners, (height, width)) == encoded
    for mask, box, (top, left) in zip(masks_NHW, boxes, corners, strict=True):
        assert mask[top : top + box.shape[0], left : left + box.shape[1]].tolist() == box.tolist()
        assert box.sum() == mask.sum()
        if box.size:
            assert box[[0, -1]].any(axis=1).all()
            assert box[:, [0, -1]].any(axis=0).all()
    assert decode_masks(encoded, (height, width)).tolist() == masks_NHW.tolist()
