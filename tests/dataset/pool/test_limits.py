"""Manifests that would fill the memory are refused before they do."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raylabel.dataset.pool.listing import iter_pool
from raylabel.dataset.pool.rows import MAX_TEXT
from raylabel.errors import InputError


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pool.txt", "a" * 2**21, "a line must have at most 1048576 characters"),
        ("pool.jsonl", '{"uri": "' + "a" * 2**21, "a line must have at most"),
        ("pool.csv", "uri\n" + "a" * 2**21, "a line must have at most"),
        ("pool.csv", "uri\n" + '"' + "a\n" * 2**21, "field larger than field limit"),
        ("pool.txt", "a" * (MAX_TEXT + 1), "uri must have at most 8192 characters, got 8193"),
        (
            "pool.jsonl",
            '{"uri": "a", "image_id": "' + "a" * (MAX_TEXT + 1) + '"}',
            "image_id must have at most",
        ),
    ],
)
def test_long_text(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        list(iter_pool(str(tmp_path / name)))
    assert len(str(caught.value)) < 1000


def listing_allocates(path: Path, message: str) -> int:
    """List a bad pool and return how many bytes Arrow allocated for it."""
    before = pa.total_allocated_bytes()
    with pytest.raises(InputError, match=message) as caught:
        list(iter_pool(str(path)))
    held = pa.total_allocated_bytes() - before
    assert len(str(caught.value)) < 1000
    return held


@pytest.mark.parametrize("use_dictionary", [True, False])
def test_a_small_parquet_with_long_text(tmp_path: Path, use_dictionary: bool) -> None:
    path = tmp_path / "pool.parquet"
    table = pa.table({"uri": ["a" * 2**20] * 64, "image_id": range(64)})
    pq.write_table(table, path, compression="zstd", use_dictionary=use_dictionary)
    assert path.stat().st_size < 20_000
    assert listing_allocates(path, "at most") < 8 * 2**20


def test_ordinary_row_groups_are_read(tmp_path: Path) -> None:
    names = ["a" * MAX_TEXT, *(f"{number}.jpg" for number in range(5000))]
    for column in (pa.array(names), pa.array(names, pa.large_string()), pa.array(names).dictionary_encode()):
        pq.write_table(pa.table({"uri": column}), tmp_path / "pool.parquet", row_group_size=700)
        assert [image.image_id for image in iter_pool(str(tmp_path / "pool.parquet"))] == names
