"""Pools that a file lists: text, JSON lines, CSV or Parquet, read row by row."""

import csv
import io
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raylabel.dataset.containers import BYTES_COLUMN, join_reference, split_reference
from raylabel.dataset.pool.image import NOT_UTF8, OUTSIDE, PoolImage, image_below, printable
from raylabel.errors import InputError, shown
from raylabel.files.file_systems import open_uri
from raylabel.files.json_text import parse_json
from raylabel.files.paths import climbs_out, split
from raylabel.files.stored_file import StoredFile

MAX_TEXT = 2**13
"""Largest number of characters of a URI or an id. Presigned URLs, the longest known, have about 2,000."""
_MAX_LINE = 2**20
_MAX_GROUP_BYTES = 2**29
"""Largest size of a row group's URIs and ids in memory. A million rows, pyarrow's default, have about 200 MB."""


def of_text(uri: str) -> Iterator[PoolImage]:
    """Yield an image per line of a text file. The URI is also the id."""
    with _open_text(uri) as lines:
        for line in lines:
            if line.strip():
                yield _from_row({"uri": line.strip()}, uri, where=uri)


def of_jsonl(uri: str) -> Iterator[PoolImage]:
    """Yield an image per line of JSON with `uri` and optional `image_id`."""
    with _open_text(uri) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{uri}: line {number}"
            row = parse_json(line, where, must_be_unicode=False)
            if not isinstance(row, dict):
                raise InputError(f"{where}: must be an object with uri, got {type(row).__name__}")
            yield _from_row(row, uri, where)


def of_csv(uri: str) -> Iterator[PoolImage]:
    """Yield an image per row of a CSV file with columns `uri` and optional `image_id`, named in the first line."""
    with _open_text(uri, newline="") as lines:
        rows = csv.DictReader(lines)
        try:
            if "uri" not in (rows.fieldnames or []):
                raise InputError(f"{uri}: the first line must name a column uri, got {rows.fieldnames}")
            for row in rows:
                yield _from_row(row, uri, where=f"{uri}: line {rows.line_num}")
        except csv.Error as error:
            raise InputError(f"{uri}: line {rows.line_num}: not CSV: {error}") from error


def of_parquet(uri: str) -> Iterator[PoolImage]:
    """Yield an image per row of a Parquet file.

    The file has a column `bytes` of encoded images (default id: the row number in 9 digits), or a column `uri`.
    `image_id` is optional. The images themselves are not read.
    """
    try:
        with StoredFile(uri) as file:
            parquet = pq.ParquetFile(file)
            names = parquet.schema_arrow.names
            has_bytes = BYTES_COLUMN in names
            if not has_bytes and "uri" not in names:
                raise InputError(f"{uri}: must have a column uri or {BYTES_COLUMN}, got {', '.join(names)}")
            columns = [name for name in ("image_id", "uri") if name in names and not (has_bytes and name == "uri")]
            # As dictionaries, because a file of 435 bytes can repeat a long text 4,096 times.
            texts = [name for name in columns if _is_text(parquet.schema_arrow.field(name).type)]
            parquet = pq.ParquetFile(file, metadata=parquet.metadata, read_dictionary=texts)
            for number, row in enumerate(iter_rows(parquet, columns, uri)):
                where = f"{uri}: row {number}"
                if has_bytes:
                    yield PoolImage(_image_id(row, f"{number:09d}", where), join_reference(uri, str(number)))
                else:
                    yield _from_row(row, uri, where)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"{uri}: not readable as Parquet: {error}") from error


def iter_rows(parquet: pq.ParquetFile, columns: list[str], uri: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of some columns. Row groups that would take much memory are refused unread."""
    if not columns:
        yield from ({} for _ in range(parquet.metadata.num_rows))
        return
    for number in range(parquet.num_row_groups):
        group = parquet.metadata.row_group(number)
        chunks = (group.column(place) for place in range(group.num_columns))
        num_bytes = sum(one.total_uncompressed_size for one in chunks if one.path_in_schema in columns)
        limit = min(_MAX_GROUP_BYTES, len(columns) * MAX_TEXT * group.num_rows)
        if num_bytes > limit:
            raise InputError(f"{uri}: row group {number}: must have at most {limit} bytes of text, got {num_bytes}")
        for batch in parquet.iter_batches(4096, row_groups=[number], columns=columns):
            if any(_longest(column) > MAX_TEXT for column in batch.columns):
                raise InputError(f"{uri}: row group {number}: a text must have at most {MAX_TEXT} bytes")
            yield from batch.to_pylist()


def _longest(column: pa.Array) -> int:
    """Return the length of the longest text of a column in bytes, 0 for numbers."""
    texts = column.dictionary if pa.types.is_dictionary(column.type) else column
    return (pc.max(pc.binary_length(texts)).as_py() or 0) if _is_text(texts.type) else 0


def _is_text(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary))


@contextmanager
def _open_text(uri: str, newline: str | None = None) -> Iterator[Iterator[str]]:
    """Open a text file as its lines."""
    file_system, path = open_uri(uri)
    try:
        with (
            file_system.open_input_stream(path, compression=None, buffer_size=1 << 20) as stream,
            io.TextIOWrapper(stream, "utf-8-sig", newline=newline) as text,
        ):
            yield _lines(text, uri)
    except UnicodeDecodeError as error:
        raise InputError(f"{uri}: not UTF-8 text: {error}") from error


def _lines(text: TextIO, uri: str) -> Iterator[str]:
    while line := text.readline(_MAX_LINE + 1):
        if len(line) > _MAX_LINE:
            raise InputError(f"{uri}: a line must have at most {_MAX_LINE} characters")
        yield line


def _from_row(row: dict[str, Any], manifest_uri: str, where: str) -> PoolImage:
    uri = row.get("uri")
    if not isinstance(uri, str) or not uri:
        raise InputError(f"{where}: uri must be a path or URI, got {shown(uri)}")
    _check_length(uri, where, "uri")
    image_id = _image_id(row, printable(uri), where)
    if "://" not in uri and not posixpath.isabs(uri):
        image = image_below(split(manifest_uri)[0], uri, image_id=image_id)
        if (reference := split_reference(uri)) and any(map(climbs_out, reference)):
            return PoolImage(image.image_id, image.uri, OUTSIDE)
        return image
    return PoolImage(image_id, printable(uri), NOT_UTF8 if printable(uri) != uri else None)


def _image_id(row: dict[str, Any], default: str, where: str) -> str:
    image_id = row.get("image_id")
    if image_id is None or image_id == "":
        return default
    if not isinstance(image_id, int | str) or isinstance(image_id, bool):
        raise InputError(f"{where}: image_id must be a string or an integer, got {shown(image_id)}")
    _check_length(str(image_id), where, "image_id")
    return printable(str(image_id))


def _check_length(text: str, where: str, name: str) -> None:
    if len(text) > MAX_TEXT:
        raise InputError(f"{where}: {name} must have at most {MAX_TEXT} characters, got {len(text)}")
