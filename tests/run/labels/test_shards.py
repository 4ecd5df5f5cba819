"""Stored labels: instances survive a round trip through a shard."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from raylabel.files.tables import commit_table
from raylabel.masks.rle import encode_masks
from raylabel.predictions.instances import Instances
from raylabel.run.folder import RunFolder
from raylabel.run.labels.rows import InstanceRows
from raylabel.run.labels.shards import committed_shards, instances_from_structs, shard_uri
from raylabel.schema import LABELS
from stored_labels import all_labelled_images


def some_instances(num: int, num_classes: int, seed: int) -> Instances:
    rng = np.random.default_rng(seed)
    soft = rng.dirichlet(np.full(num_classes + 1, 0.3), size=num).astype(np.float32)
    masks = rng.random((num, 9, 7)) < 0.4
    return Instances(
        image_size_hw=(9, 7),
        boxes_xyxy=rng.random((num, 4)).astype(np.float32),
        masks=tuple(encode_masks(masks)),
        class_indices=soft[:, :-1].argmax(axis=1).astype(np.int32),
        raw_scores=soft[:, :-1].max(axis=1, initial=0),
        soft_vectors=soft,
        mask_quality=rng.random(num).astype(np.float32),
    )


def to_structs(instances: Instances, scores: NDArray[np.float32], *, top_k: int) -> list[dict[str, Any]]:
    """Build rows of schema.INSTANCE."""
    rows = InstanceRows(top_k=top_k)
    rows.append(instances)
    [structs] = rows.to_arrow(scores).to_pylist()
    return structs


@settings(max_examples=30, deadline=None)
@given(num=st.integers(0, 5), num_classes=st.integers(1, 9), seed=st.integers(0, 999))
def test_all_entries_kept_is_a_round_trip(num: int, num_classes: int, seed: int) -> None:
    before = some_instances(num, num_classes, seed)
    scores = np.linspace(0, 1, num).astype(np.float32)
    after, after_scores = instances_from_structs(
        to_structs(before, scores, top_k=num_classes + 1),
        before.image_size_hw,
        num_classes,
    )
    np.testing.assert_allclose(after.soft_vectors, before.soft_vectors, atol=1e-6)
    np.testing.assert_array_equal(after.class_indices, before.class_indices)
    np.testing.assert_array_equal(after_scores, scores)
    assert after.masks == before.masks
    np.testing.assert_array_equal(after.boxes_xyxy, before.boxes_xyxy)


def test_the_top_k_keep_their_value_and_the_rest_is_spread_evenly() -> None:
    before = some_instances(4, 6, seed=1)
    after, _ = instances_from_structs(to_structs(before, before.raw_scores, top_k=2), (9, 7), 6)
    np.testing.assert_allclose(after.soft_vectors.sum(axis=1), 1, atol=1e-6)
    order = np.argsort(-before.soft_vectors, axis=1)
    kept = np.take_along_axis(before.soft_vectors, order[:, :2], axis=1)
    np.testing.assert_allclose(np.take_along_axis(after.soft_vectors, order[:, :2], axis=1), kept, atol=1e-6)
    rest = np.take_along_axis(after.soft_vectors, order[:, 2:], axis=1)
    np.testing.assert_allclose(rest, np.broadcast_to((1 - kept.sum(axis=1, keepdims=True)) / 5, rest.shape), atol=1e-6)


def test_rows_of_all_shards_in_order_quarantined_ones_without_instances(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    instances = some_instances(2, 3, seed=2)
    for shard_id in (1, 0):
        rows = [
            {
                "image_id": f"{shard_id}-{number}",
                "uri": f"/{shard_id}-{number}.png",
                "height": 9 if number else 0,
                "width": 7 if number else 0,
                "status": "ok" if number else "truncated",
                "instances": to_structs(instances, instances.raw_scores, top_k=4) if number else [],
            }
            for number in range(2)
        ]
        commit_table(shard_uri(run, shard_id), pa.Table.from_pylist(rows, schema=LABELS))
    commit_table(run.path("labels", "errors.parquet"), pa.table({"x": [1]}))
    assert list(committed_shards(run)) == [0, 1]
    labels = all_labelled_images(run, 3)
    assert [image.image_id for image in labels] == ["0-0", "0-1", "1-0", "1-1"]
    assert [image.status for image in labels] == ["truncated", "ok"] * 2
    np.testing.assert_allclose(labels[3].instances.soft_vectors, instances.soft_vectors, atol=1e-6)
    assert len(labels[0].instances) == 0
