"""Rows of the label shards' schema as entries: other scores change nothing else, and only files of `predict` count."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylabel.errors import InputError
from raylabel.predictions.label_rows import label_entries, label_metadata, num_label_entries, with_calibrated_scores
from raylabel.predictions.results_parts import iter_parts
from raylabel.predictions.results_writing import write_scores
from raylabel.run.labels.rows import InstanceRows
from raylabel.schema import LABELS
from some_instances import some_instances

CATEGORY_IDS = [7, -3, 2]


def label_rows(nums: Sequence[int | None], *, is_corrected: bool, seed: int) -> pa.RecordBatch:
    """Make one row per image: this many predictions, or None for an image that can't be read."""
    rng = np.random.default_rng(seed)
    found = [None if num is None else some_instances(num, len(CATEGORY_IDS), rng) for num in nums]
    rows = InstanceRows(top_k=2)
    for one in found:
        rows.append(one)
    columns = {
        "image_id": [f"{place}.jpg" for place in range(len(nums))],
        "uri": [f"/pool/{place}.jpg" for place in range(len(nums))],
        "height": [one.image_size_hw[0] if one else 0 for one in found],
        "width": [one.image_size_hw[1] if one else 0 for one in found],
        "as_stored": [None] * len(nums),
        "status": ["ok" if one else "truncated" for one in found],
        "instances": rows.to_arrow(rng.random(int(rows.lengths.sum()))),
        "content": pa.nulls(len(nums), pa.uint64()),
    }
    metadata = label_metadata(category_ids=CATEGORY_IDS, class_names=["a", "b", "c"], is_corrected=is_corrected)
    arrays = [pa.array(columns[field.name], field.type) for field in LABELS]
    return pa.record_batch(arrays, schema=LABELS.with_metadata(metadata))


IMAGES = st.lists(st.one_of(st.none(), st.integers(0, 3)), max_size=6)


@given(nums=IMAGES, is_corrected=st.booleans(), seed=st.integers(0, 999))
def test_entries_are_the_instances(nums: list[int | None], is_corrected: bool, seed: int) -> None:
    rows = label_rows(nums, is_corrected=is_corrected, seed=seed)
    structs, entries = [one for each in rows["instances"].to_pylist() for one in each], label_entries(rows)
    assert num_label_entries(rows) == len(entries) == len(structs)
    names = [f"{place}.jpg" for place, num in enumerate(nums) for _ in range(num or 0)]
    assert [one["image_id"] for one in entries] == names
    for entry, struct in zip(entries, structs, strict=True):
        assert entry["category_id"] == CATEGORY_IDS[struct["class_index"]]
        assert entry["segmentation"]["counts"].encode() == struct["mask_counts"]
        assert entry["score"] == struct["calibrated_score" if is_corrected else "raw_score"]
        assert entry.get("raw_score") == (struct["raw_score"] if is_corrected else None)
        assert entry["background"] == struct["context"]["background"]


@given(nums=IMAGES, seed=st.integers(0, 999))
def test_other_scores_change_nothing_else(nums: list[int | None], seed: int) -> None:
    rows = label_rows(nums, is_corrected=False, seed=seed)
    scores = np.random.default_rng(seed).random(num_label_entries(rows)).astype(np.float32)
    scored = with_calibrated_scores(rows, scores.astype(np.float64))
    assert scored.schema.remove_metadata() == rows.schema.remove_metadata()
    before, after = label_entries(rows), label_entries(scored)
    assert [one["score"] for one in after] == scores.tolist()
    assert [{**one, "score": one["raw_score"]} for one in after] == [
        {**one, "raw_score": one["score"]} for one in before
    ]
    assert with_calibrated_scores(scored, scores.astype(np.float64)).equals(scored)


@given(nums=st.lists(st.one_of(st.none(), st.integers(0, 2)), min_size=1, max_size=250), seed=st.integers(0, 9))
def test_a_file_is_read_and_written_in_parts(nums: list[int | None], seed: int) -> None:
    """More images than a part holds, and parts without an entry."""
    rows = label_rows(nums, is_corrected=False, seed=seed)
    scores = np.random.default_rng(seed).random(num_label_entries(rows))
    with TemporaryDirectory() as folder:
        source, target = f"{folder}/in.parquet", f"{folder}/out.parquet"
        pq.write_table(pa.Table.from_batches([rows]), source)
        parts = [part.entries() for part in iter_parts(source)]
        assert [one for part in parts for one in part] == label_entries(rows)
        write_scores(source, target, scores, scores, part_lengths=list(map(len, parts)))
        assert pq.read_table(target).equals(pa.Table.from_batches([with_calibrated_scores(rows, scores)]))


def test_label_shards_of_a_run_are_refused(tmp_path: Path) -> None:
    rows = label_rows([1], is_corrected=False, seed=0).replace_schema_metadata(None)
    pq.write_table(pa.Table.from_batches([rows]), tmp_path / "shard.parquet")
    with pytest.raises(InputError, match=r"shard\.parquet: has a column instances, but no category_ids"):
        list(iter_parts(str(tmp_path / "shard.parquet")))
