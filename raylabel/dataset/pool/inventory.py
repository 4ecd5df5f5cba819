"""S3 Inventory: the keys of a bucket, as Amazon S3 writes them once a day or a week, so that nobody need list them.

Source: Amazon S3 User Guide, "Locating your inventory list" (manifest.json and its files).
"""

import csv
import gzip
import io
import posixpath
import re
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.parquet as pq

from raylabel.dataset.pool.rows import iter_rows
from raylabel.errors import InputError, shown
from raylabel.files.file_systems import split_options
from raylabel.files.json_files import read_json_object
from raylabel.files.stored_file import StoredFile

INVENTORY = "manifest.json"

_FORMATS = ("CSV", "Parquet")
_FIELDS = ("sourceBucket", "destinationBucket", "fileFormat", "fileSchema", "files")


class StoredKey(NamedTuple):
    """An object of a bucket.

    Attributes:
        key: the object's key.
        num_bytes: its size, None if the inventory does not tell it.
    """

    key: str
    num_bytes: int | None


def is_inventory(uri: str) -> bool:
    """Tell by its name whether a file is the manifest of an inventory."""
    return posixpath.basename(split_options(uri)[0]) == INVENTORY


def source_bucket(uri: str) -> str:
    """Return the URI of the bucket that an inventory lists, with the options of the inventory's URI.

    Raises:
        InputError: see `iter_keys`.
    """
    return f"s3://{_read(uri)['sourceBucket']}{split_options(uri)[1]}"


def iter_keys(uri: str) -> Iterator[StoredKey]:
    """Yield the keys of an inventory in its order, in bounded memory. Deleted and old versions are left out.

    Args:
        uri: URI of the inventory's `manifest.json`, on S3 beside its files.

    Raises:
        InputError: the manifest or a file is damaged, is missing, or has another format than CSV or Parquet.
    """
    manifest, options = _read(uri), split_options(uri)[1]
    bucket = manifest["destinationBucket"].rpartition(":")[2]
    for file in manifest["files"]:
        file_uri = f"s3://{bucket}/{file['key']}{options}"
        rows = (
            _csv_rows(file_uri, manifest["fileSchema"]) if manifest["fileFormat"] == "CSV" else _parquet_rows(file_uri)
        )
        for row in rows:
            if row["is_latest"] and not row["is_delete_marker"]:
                yield StoredKey(row["key"], row["size"])


def _read(uri: str) -> dict[str, Any]:
    manifest = read_json_object(uri)
    for name in _FIELDS:
        if name not in manifest:
            raise InputError(f"{uri}: must be the manifest of an S3 Inventory, but has no {name}")
    if manifest["fileFormat"] not in _FORMATS:
        wanted = " or ".join(_FORMATS)
        raise InputError(f"{uri}: fileFormat must be {wanted}, got {shown(manifest['fileFormat'])}")
    texts = [manifest[name] for name in _FIELDS[:4]]
    files = manifest["files"]
    if not all(map(_is_text, texts)):
        raise InputError(f"{uri}: {', '.join(_FIELDS[:4])} must be texts")
    if not (
        isinstance(files, list) and all(isinstance(one, dict) and isinstance(one.get("key"), str) for one in files)
    ):
        raise InputError(f"{uri}: files must be a list of objects with a key")
    return manifest


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _csv_rows(uri: str, schema: str) -> Iterator[dict[str, Any]]:
    names = [_snake_case(name.strip()) for name in schema.split(",")]
    if "key" not in names:
        raise InputError(f"{uri}: fileSchema must name Key, got {shown(schema)}")
    try:
        with StoredFile(uri) as file, gzip.GzipFile(fileobj=file) as unpacked:
            for number, values in enumerate(csv.reader(io.TextIOWrapper(unpacked, "utf-8", newline="")), start=1):
                if len(values) != len(names):
                    raise InputError(f"{uri}: line {number}: must have {len(names)} values, got {len(values)}")
                row = dict(zip(names, values, strict=True))
                yield {
                    "key": unquote_plus(row["key"]),
                    "size": int(row["size"]) if row.get("size", "").isdecimal() else None,
                    "is_latest": row.get("is_latest", "true") != "false",
                    "is_delete_marker": row.get("is_delete_marker") == "true",
                }
    except FileNotFoundError:
        raise InputError(f"{uri}: no such file") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{uri}: not readable as a CSV file of an S3 Inventory: {error}") from error


def _parquet_rows(uri: str) -> Iterator[dict[str, Any]]:
    defaults = {"size": None, "is_latest": True, "is_delete_marker": False}  # unversioned inventories lack the last two
    try:
        with StoredFile(uri) as file:
            parquet = pq.ParquetFile(file)
            names = parquet.schema_arrow.names
            if "key" not in names:
                raise InputError(f"{uri}: must have a column key, got {', '.join(names)}")
            columns = [name for name in ("key", *defaults) if name in names]
            for row in iter_rows(parquet, columns, uri):
                yield defaults | {name: value for name, value in row.items() if value is not None}
    except FileNotFoundError:
        raise InputError(f"{uri}: no such file") from None
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"{uri}: not readable as Parquet: {error}") from error


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
