"""Rows built in columns have the same values as rows built one number at a time."""

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from raylabel.predictions.context import CONTEXT_FEATURES
from raylabel.predictions.instances import Instances, instances_context
from raylabel.run.labels.rows import InstanceRows, top_entries
from raylabel.schema import INSTANCE
from some_instances import some_instances


def structs_one_by_one(found: Instances, scores: NDArray[np.float32], top_k: int) -> list[dict[str, Any]]:
    """Build rows of schema.INSTANCE by their definition, one number at a time."""
    order = np.argsort(-found.soft_vectors, axis=1, kind="stable")[:, :top_k]
    context = instances_context(found)
    return [
        {
            "class_index": int(found.class_indices[row]),
            "raw_score": float(found.raw_scores[row]),
            "calibrated_score": float(scores[row]),
            "box_xyxy": found.boxes_xyxy[row].tolist(),
            "mask_counts": found.masks[row]["counts"],
            "mask_area": int(found.mask_areas[row]),
            "mask_quality": float(found.mask_quality[row]),
            "soft_classes": order[row].tolist(),
            "soft_probs": found.soft_vectors[row][order[row]].tolist(),
            "context": dict(zip(CONTEXT_FEATURES, context[row].tolist(), strict=True)),
        }
        for row in range(len(found))
    ]


@given(
    nums=st.lists(st.one_of(st.none(), st.integers(0, 4)), max_size=5),
    num_classes=st.integers(2, 9),
    top_k=st.integers(1, 12),
    seed=st.integers(0, 999),
)
def test_columns_hold_what_rows_one_by_one_hold(
    nums: list[int | None], num_classes: int, top_k: int, seed: int
) -> None:
    """`None` stands for an unreadable image."""
    rng = np.random.default_rng(seed)
    images = [None if num is None else some_instances(num, num_classes, rng) for num in nums]
    rows = InstanceRows(top_k=top_k)
    for image in images:
        rows.append(image)
    lengths = [0 if image is None else len(image) for image in images]
    assert rows.lengths.tolist() == lengths
    scores = rng.random(sum(lengths)).astype(np.float32)
    lists, start = [], 0
    for image, length in zip(images, lengths, strict=True):
        of_image = scores[start : start + length]
        lists.append([] if image is None else structs_one_by_one(image, of_image, top_k))
        start += length
    expected = pa.array(lists, pa.list_(INSTANCE))
    found = rows.to_arrow(scores)
    found.validate(full=True)
    assert found.type == expected.type
    assert found.null_count == 0
    assert found.equals(expected)
    assert rows.column("raw_score").shape == rows.column("class_index").shape == (sum(lengths),)
    assert rows.column("context").shape == (sum(lengths), len(CONTEXT_FEATURES))


vectors = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.sampled_from([0, 0.1, 0.5]))


@given(vectors, st.integers(1, 12))
def test_top_entries_are_those_of_a_stable_sort(vectors: NDArray[np.float32], top_k: int) -> None:
    expected = np.argsort(-vectors, axis=1, kind="stable")[:, :top_k]
    np.testing.assert_array_equal(top_entries(vectors, top_k), expected)
