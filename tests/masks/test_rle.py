"""Masks against pycocotools and plain NumPy."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_mask

from raylabel.masks.rle import (
    check_rle,
    decode_masks,
    encode_masks,
    mask_areas,
    mask_boxes,
    mask_iou,
    mirror_masks,
)
from raylabel.masks.segmentation import rle_from_segmentation

stacks = array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=12).flatmap(lambda shape: arrays(bool, shape))


@given(stacks)
def test_encoding_round_trip(masks_NHW):
    rles = encode_masks(masks_NHW)
    for rle, mask_HW in zip(rles, masks_NHW, strict=True):
        assert rle == coco_mask.encode(np.asfortranarray(mask_HW.astype(np.uint8)))
        check_rle(rle)
    np.testing.assert_array_equal(decode_masks(rles, masks_NHW.shape[1:]), masks_NHW)


@given(stacks)
def test_segmentation_forms_agree(masks_NHW):
    size = masks_NHW.shape[1:]
    for rle, mask_HW in zip(encode_masks(masks_NHW), masks_NHW, strict=True):
        flat = mask_HW.ravel(order="F").astype(int)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
        runs = np.diff([0, *edges, flat.size]).tolist()
        from_list = rle_from_segmentation({"size": list(size), "counts": runs}, size)
        from_text = rle_from_segmentation({"size": list(size), "counts": rle["counts"].decode()}, size)
        assert from_text == rle
        np.testing.assert_array_equal(decode_masks([from_list], size)[0], mask_HW)


@given(stacks)
def test_areas_and_boxes(masks_NHW):
    rles = encode_masks(masks_NHW)
    np.testing.assert_array_equal(mask_areas(rles), masks_NHW.sum(axis=(1, 2)))
    for mask_HW, (x0, y0, x1, y1) in zip(masks_NHW, mask_boxes(rles), strict=True):
        rows, columns = np.nonzero(mask_HW)
        expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if len(rows) else (0, 0, 0, 0)
        assert (x0, y0, x1, y1) == expected


@given(stacks)
def test_mirrored_masks_have_their_columns_in_the_other_order(masks_NHW):
    assert mirror_masks(encode_masks(masks_NHW)) == encode_masks(masks_NHW[:, :, ::-1])


@given(stacks)
def test_iou_is_symmetric_and_right(masks_NHW):
    rles = encode_masks(masks_NHW)
    iou = mask_iou(rles, rles, [False] * len(rles))
    crowd = mask_iou(rles, rles, [True] * len(rles))
    np.testing.assert_array_equal(iou, iou.T)
    flat = masks_NHW.reshape(len(masks_NHW), -1).astype(float)
    both, areas = flat @ flat.T, flat.sum(axis=1)
    union = areas[:, None] + areas[None] - both
    np.testing.assert_allclose(iou, np.divide(both, union, out=np.zeros_like(both), where=union > 0))
    some = areas > 0
    np.testing.assert_allclose(crowd[some], (both / np.maximum(areas, 1)[:, None])[some])


def test_no_masks():
    assert encode_masks(np.zeros((0, 4, 5), bool)) == []
    assert decode_masks([], (4, 5)).shape == (0, 4, 5)
    assert mask_areas([]).shape == (0,)
    assert mask_boxes([]).shape == (0, 4)
    assert mask_iou([], encode_masks(np.ones((2, 4, 5))), [False, False]).shape == (0, 2)


@given(st.binary(max_size=12), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=300)
def test_damaged_rle_is_refused_or_decodes(counts, height, width):
    try:
        rle = rle_from_segmentation({"size": [height, width], "counts": counts}, (height, width))
    except ValueError:
        return
    assert decode_masks([rle], (height, width)).sum() == mask_areas([rle])[0] <= height * width
