"""Pools that an S3 Inventory lists."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote, quote_plus

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raylabel.dataset.pool.left_out import LeftOut
from raylabel.dataset.pool.listing import iter_pool
from raylabel.errors import InputError
from raylabel.files.committing import commit_bytes
from raylabel.files.reading import read_bytes

KEYS = ["a.png", "b/c d+e.JPG", "b/100%.png", "b/ü#1?.png", "notes.txt", "folder/", "b/.hidden/x.png", "../up.png"]
IMAGES = {"a.png", "b/c d+e.JPG", "b/100%.png", "b/ü#1?.png", "../up.png"}
Row = tuple[str, int, bool, bool]
"""Key, size, whether it is the latest version, whether it is a delete marker."""

ROWS: list[Row] = [(key, 100 + place, True, False) for place, key in enumerate(KEYS)]
OLD: list[Row] = [("a.png", 5, False, False), ("gone.png", 5, True, True)]


def as_csv(rows: Sequence[Row], quoted: Callable[[str], str] = quote_plus) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    for key, size, is_latest, is_marker in rows:
        writer.writerow(
            ["source", quoted(key), "v1", str(is_latest).lower(), str(is_marker).lower(), "" if is_marker else size]
        )
    return gzip.compress(text.getvalue().encode())


def as_parquet(rows: Sequence[Row]) -> bytes:
    names = ["key", "size", "is_latest", "is_delete_marker"]
    table = pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    buffer = io.BytesIO()
    pq.write_table(table.append_column("bucket", pa.array(["source"] * len(rows))), buffer)
    return buffer.getvalue()


def write(s3_bucket: str, file_format: str, files: Sequence[bytes], /, **changes: Any) -> str:
    """Write an inventory into the bucket and return the URI of its manifest."""
    names = [f"inv/data/{number}.{file_format.lower()}" for number in range(len(files))]
    for name, content in zip(names, files, strict=True):
        commit_bytes(f"{s3_bucket}/{name}", content)
    manifest = {
        "sourceBucket": "source",
        "destinationBucket": f"arn:aws:s3:::{s3_bucket.removeprefix('s3://')}",
        "version": "2016-11-30",
        "creationTimestamp": "1514944800000",
        "fileFormat": file_format,
        "fileSchema": "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size",
        "files": [{"key": name, "size": 1, "MD5checksum": "0"} for name in names],
    }
    kept = {name: value for name, value in (manifest | changes).items() if value is not ...}
    uri = f"{s3_bucket}/inv/2026-11-30T01-00Z/manifest.json"
    commit_bytes(uri, json.dumps(kept).encode())
    return uri


@pytest.mark.parametrize(
    ("file_format", "files"),
    [
        ("CSV", [as_csv(ROWS[:3]), as_csv(ROWS[3:] + OLD)]),
        ("CSV", [as_csv(ROWS + OLD, quote)]),
        ("Parquet", [as_parquet(ROWS[:3] + OLD), as_parquet(ROWS[3:])]),
    ],
    ids=["csv", "csv with %20", "parquet"],
)
def test_its_images_are_those_of_the_bucket(s3_bucket: str, file_format: str, files: list[bytes]) -> None:
    left_out = LeftOut()
    images = {image.image_id: image for image in iter_pool(write(s3_bucket, file_format, files), left_out=left_out)}
    assert images.keys() == IMAGES
    assert images["a.png"].uri == "s3://source/a.png"
    assert images["a.png"].num_bytes == 100
    assert images["../up.png"].refusal == "outside of the pool"
    assert left_out.text() == ("2 files of other kinds left out (1 .txt, 1 no suffix); 1 hidden file left out (1 .png)")


def test_an_image_of_an_inventory_is_read(s3_bucket: str) -> None:
    own = s3_bucket.removeprefix("s3://")
    commit_bytes(f"{s3_bucket}/b/c d+e.JPG", b"image")
    uri = write(s3_bucket, "CSV", [as_csv(ROWS[1:2])], sourceBucket=own)
    [image] = iter_pool(uri)
    assert read_bytes(image.uri) == b"image"


@pytest.mark.parametrize(
    ("file_format", "content", "changes", "message"),
    [
        ("CSV", as_csv(ROWS)[:40], {}, "not readable as a CSV file of an S3 Inventory"),
        ("CSV", b"key", {}, "not readable as a CSV file of an S3 Inventory"),
        ("CSV", gzip.compress(b'"source","a.png"\n'), {}, "line 1: must have 6 values, got 2"),
        ("CSV", as_csv(ROWS), {"fileSchema": "Bucket, Size"}, "fileSchema must name Key"),
        ("CSV", as_csv(ROWS), {"files": ...}, "must be the manifest of an S3 Inventory, but has no files"),
        ("CSV", as_csv(ROWS), {"files": [{"key": 3}]}, "files must be a list of objects with a key"),
        ("CSV", as_csv(ROWS), {"files": [{"key": "absent.csv.gz"}]}, "absent.csv.gz: no such file"),
        ("CSV", as_csv(ROWS), {"sourceBucket": 3}, "must be texts"),
        ("ORC", b"", {}, "fileFormat must be CSV or Parquet, got 'ORC'"),
        ("Parquet", b"PAR1", {}, "not readable as Parquet"),
    ],
)
def test_damage_is_one_line(
    s3_bucket: str, file_format: str, content: bytes, changes: dict[str, Any], message: str
) -> None:
    uri = write(s3_bucket, file_format, [content], **changes)
    with pytest.raises(InputError, match=message) as caught:
        list(iter_pool(uri))
    assert "\n" not in str(caught.value)
