"""A results file of any format as a stream of parts. Other processes can parse them.

JSON (a list of objects), JSON lines and Parquet hold the same entries. Parquet may also have one row per image, as
`raylabel predict` writes it (`label_rows`). The name tells the format: `.jsonl` or
`.ndjson`, `.parquet`, and JSON otherwise. Text may be compressed with gzip.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from raylabel.errors import InputError, shown_error
from raylabel.files.file_systems import split_options
from raylabel.files.json_pieces import line_pieces, list_pieces, parse_lines, parse_list_piece
from raylabel.files.json_stream import iter_elements, named_faults
from raylabel.files.json_text import parse_json
from raylabel.files.reading import open_users_file
from raylabel.predictions.label_rows import check_label_rows, has_label_rows, label_entries

Results = str | Sequence[Any]
"""Path or URI of a results file, or its entries."""

ROWS_AT_A_TIME = 10_000
"""Entries of a part, where the format does not tell."""

_IMAGES_AT_A_TIME = 100
"""Images of a part, in a file with one row per image."""

BAD_TEXT = (ValueError, RecursionError, EOFError, OSError, zlib.error)
"""What reading text raises that cannot be cut or parsed. `iter_slow_parts` reads it, or says what is wrong."""


@dataclass(frozen=True)
class Part:
    """Some entries of a results file, in order, not yet parsed."""

    content: "str | pa.RecordBatch | list[Any]"
    is_lines: bool = False

    def entries(self) -> list[Any]:
        """Parse the entries.

        Raises:
            ValueError, RecursionError: the text is not sound.
        """
        if isinstance(self.content, str):
            return parse_lines(self.content) if self.is_lines else parse_list_piece(self.content)
        if isinstance(self.content, pa.RecordBatch):
            if has_label_rows(self.content.schema):
                return label_entries(self.content)
            # A column has null where a row lacks the field.
            return [
                {name: value for name, value in one.items() if value is not None} for one in self.content.to_pylist()
            ]
        return self.content


def results_format(path: str) -> str:
    """Return "jsonl", "parquet" or "json", by the name of a file."""
    name = split_options(path)[0].lower().removesuffix(".gz")
    if name.endswith((".jsonl", ".ndjson")):
        return "jsonl"
    return "parquet" if name.endswith(".parquet") else "json"


def iter_parts(results: Results) -> Iterator[Part]:
    """Yield the parts of results, as fast as they are read.

    Raises:
        InputError: the file is missing, or not Parquet though its name says so.
        BAD_TEXT: text that cannot be cut into parts.
    """
    if not isinstance(results, str):
        yield from _cut_list(list(results))
        return
    kind = results_format(results)
    with open_users_file(results) as file:
        if kind == "parquet":
            yield from _parquet_parts(file, results)
        elif kind == "jsonl":
            yield from (Part(piece, is_lines=True) for piece in line_pieces(file))
        else:
            yield from (Part(piece) for piece in list_pieces(file))


def iter_slow_parts(results: Results, where: str) -> Iterator[Part]:
    """Yield the parts of results in parsed form. Text is read by one process, element by element.

    Raises:
        InputError: the file is missing, not of its format, or not a list. The message names the place.
    """
    if not isinstance(results, str) or results_format(results) == "parquet":
        yield from iter_parts(results)
        return
    with open_users_file(results) as file:
        read = _lines if results_format(results) == "jsonl" else _elements
        entries = list[Any]()
        for one in read(file, where):
            entries.append(one)
            if len(entries) == ROWS_AT_A_TIME:
                yield Part(entries)
                entries = []
        if entries:
            yield Part(entries)


def _cut_list(entries: list[Any]) -> Iterator[Part]:
    for low in range(0, len(entries), ROWS_AT_A_TIME):
        yield Part(entries[low : low + ROWS_AT_A_TIME])


def _parquet_parts(file: BinaryIO, where: str) -> Iterator[Part]:
    try:
        table = pq.ParquetFile(file)
        has_images = has_label_rows(table.schema_arrow)
        if has_images:
            check_label_rows(table.schema_arrow, where)
        for batch in table.iter_batches(_IMAGES_AT_A_TIME if has_images else ROWS_AT_A_TIME):
            yield Part(batch)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{where}: not readable as Parquet: {shown_error(error)}") from error


def _elements(file: BinaryIO, where: str) -> Iterator[Any]:
    """Yield the elements of a list. What is no list is refused when all of it is read, because it may not be JSON."""
    kind = "dict"
    for one in iter_elements(file, where):
        if one.is_element and one.name is None:
            kind = "list"
            yield one.value
        elif one.name is None:
            kind = type(one.value).__name__
    if kind != "list":
        raise InputError(f"{where}: results must be a list of detections, got {kind}")


def _lines(file: BinaryIO, where: str) -> Iterator[Any]:
    number = 0
    with named_faults(where):
        for piece in line_pieces(file):
            for line in piece.removesuffix("\n").split("\n"):
                number += 1
                if line and not line.isspace():
                    yield parse_json(line, f"{where}: line {number}")
