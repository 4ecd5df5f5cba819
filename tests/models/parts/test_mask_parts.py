"""Masks as parts of an image: their threshold, quality and place, by hand."""

import numpy as np
import pytest

from raylabel.masks.rle import decode_masks
from raylabel.models.parts.mask_parts import MaskPart, assemble_instances, mask_part

PLACE = (slice(3, 5), slice(6, 8))


def test_a_probability_of_a_half_is_inside() -> None:
    part = mask_part(np.array([[0.5, 0.49], [0.9, 0.1]], np.float32), PLACE)
    assert part is not None
    assert part.is_mask.tolist() == [[True, False], [True, False]]
    assert part.corner == (3, 6)
    assert part.quality == pytest.approx(0.7), "the mean of 0.5 and 0.9"
    assert mask_part(np.full((2, 2), 0.49, np.float32), PLACE) is None


def test_objects_without_a_pixel_are_left_out_of_every_field() -> None:
    part = MaskPart(is_mask=np.ones((2, 1), bool), corner=(3, 6), quality=0.8)
    boxes = np.array([[0, 0, 1, 1], [6, 3, 7, 5]], np.float32)
    probs = np.array([[0.7, 0.1, 0.2], [0.1, 0.3, 0.6]], np.float32)
    found = assemble_instances([None, part], boxes, probs, (10, 12))
    assert found.boxes_xyxy.tolist() == [[6, 3, 7, 5]]
    assert found.class_indices.tolist() == [1], "the likeliest class, although the background is likelier"
    assert found.raw_scores == pytest.approx([0.3])
    assert found.mask_quality == pytest.approx([0.8])
    np.testing.assert_array_equal(found.soft_vectors, probs[1:])
    [mask] = decode_masks(found.masks, (10, 12))
    assert np.argwhere(mask).tolist() == [[3, 6], [4, 6]]
    nothing = assemble_instances([None], boxes[:1], probs[:1], (10, 12))
    assert (len(nothing), nothing.soft_vectors.shape) == (0, (0, 3))
