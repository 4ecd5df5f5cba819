"""Indexing Instances indexes all fields together."""

import numpy as np
import pytest

from raylabel.masks.rle import encode_masks
from raylabel.predictions.instances import Instances


@pytest.fixture
def instances() -> Instances:
    masks = np.zeros((3, 4, 5), bool)
    for row in range(3):
        masks[row, : row + 1] = True
    return Instances(
        image_size_hw=(4, 5),
        boxes_xyxy=np.arange(12, dtype=np.float32).reshape(3, 4),
        masks=tuple(encode_masks(masks)),
        class_indices=np.array([2, 0, 1], np.int32),
        raw_scores=np.array([0.5, 0.9, 0.1], np.float32),
        soft_vectors=np.eye(4, dtype=np.float32)[[2, 0, 1]],
        mask_quality=np.array([0.1, 0.2, 0.3], np.float32),
    )


@pytest.mark.parametrize("rows", [np.array([2, 0]), np.array([True, False, True])[::-1], [2, 0], slice(None, None, 2)])
def test_every_kind_of_index_takes_whole_rows(instances: Instances, rows: object) -> None:
    chosen = instances[rows]
    expected = np.arange(3)[rows]
    np.testing.assert_array_equal(chosen.class_indices, instances.class_indices[expected])
    np.testing.assert_array_equal(chosen.mask_areas, 5 * (expected + 1))
    np.testing.assert_array_equal(chosen.boxes_xyxy, instances.boxes_xyxy[expected])
    np.testing.assert_array_equal(chosen.soft_vectors, instances.soft_vectors[expected])


def test_empty_has_the_shapes_of_no_object() -> None:
    nothing = Instances.empty((4, 5), 3)
    assert len(nothing) == 0
    assert nothing.soft_vectors.shape == (0, 4)
    assert nothing.mask_areas.shape == (0,)
    assert len(nothing[np.zeros(0, int)]) == 0
