"""Predictions of a model written as entries of a results file, and read back."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raylabel.calibration import results_entries
from raylabel.calibration.results_file import unmatched_results
from raylabel.masks.rle import encode_masks, mask_boxes
from raylabel.predictions.instances import Instances, instances_context
from small_results import SIZE


@given(st.integers(0, 2**32 - 1), st.integers(0, 5), st.integers(1, 4))
def test_entries_of_a_model_read_back_to_their_context(seed: int, num: int, num_classes: int) -> None:
    rng = np.random.default_rng(seed)
    masks = np.zeros((num, SIZE, SIZE), bool)
    for mask in masks:
        top, left = rng.integers(0, SIZE // 2, 2)
        mask[top : top + rng.integers(1, 9), left : left + rng.integers(1, 9)] = True
    soft_vectors = rng.dirichlet(np.ones(num_classes + 1), num).astype(np.float32).reshape(num, num_classes + 1)
    encoded = encode_masks(masks)
    found = Instances(
        image_size_hw=(SIZE, SIZE),
        boxes_xyxy=mask_boxes(encoded),
        masks=tuple(encoded),
        class_indices=soft_vectors[:, :-1].argmax(axis=1).astype(np.int32),
        raw_scores=soft_vectors[:, :-1].max(axis=1),
        soft_vectors=soft_vectors,
        mask_quality=rng.random(num, dtype=np.float32),
    )
    category_ids = 10 * np.arange(1, num_classes + 1)
    entries = json.loads(json.dumps(results_entries("a.jpg", found, category_ids), allow_nan=False))
    index_of = {category_id: index for index, category_id in enumerate(category_ids.tolist())}
    read = unmatched_results("x", entries, index_of).detections
    np.testing.assert_array_equal(read.context, instances_context(found))
    np.testing.assert_array_equal(read.raw_scores, found.raw_scores)
    np.testing.assert_array_equal(read.class_indices, found.class_indices)
