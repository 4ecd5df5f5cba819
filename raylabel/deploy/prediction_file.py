"""The file of predictions that `predict` writes: a COCO results file, or rows of the label shards' schema."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from raylabel.deploy.model_folder import ModelFolder
from raylabel.errors import InputError
from raylabel.files.committing import committed_file
from raylabel.files.file_systems import split_options
from raylabel.predictions.label_rows import label_entries, label_metadata
from raylabel.schema import LABELS

SUFFIXES = (".json", ".jsonl", ".parquet")


class PredictionWriter(Protocol):
    """A file of predictions that is being written."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Add images: rows of schema.LABELS with the selected predictions."""
        ...


def suffix_of(out: str) -> str:
    """Return the suffix of a file of predictions.

    Raises:
        InputError: the format is unknown.
    """
    name = split_options(out)[0].lower()
    suffix = next((one for one in SUFFIXES if name.endswith(one)), None)
    if suffix is None:
        raise InputError(f"{out}: the name must end with {', '.join(SUFFIXES)}")
    return suffix


@contextmanager
def prediction_file(out: str, model: ModelFolder) -> Iterator[PredictionWriter]:
    """Write a file of predictions inside the block. Afterwards it appears at `out`, whole or not at all.

    Args:
        out: path or URI. The suffix decides the format: `.json` (a COCO results file), `.jsonl` (one entry per line)
            or `.parquet` (schema.LABELS, one row per image, also for images that can't be read).
        model: the model that predicted.
    """
    suffix = suffix_of(out)
    schema = LABELS.with_metadata(
        label_metadata(
            category_ids=model.classes.category_ids.tolist(),
            class_names=model.classes.names,
            is_corrected=model.corrector is not None,
        )
    )
    with committed_file(out) as path:
        if suffix == ".parquet":
            with pq.ParquetWriter(path, schema, compression="zstd") as rows:
                yield _Rows(rows, schema)
        else:
            with open(path, "w") as file:
                entries = _Entries(file, schema, is_lines=suffix == ".jsonl")
                yield entries
                entries.end()


class _Rows:
    def __init__(self, file: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._file, self._schema = file, schema

    def write(self, batch: pa.RecordBatch) -> None:
        self._file.write_batch(batch.replace_schema_metadata(self._schema.metadata))


class _Entries:
    def __init__(self, file: IO[str], schema: pa.Schema, *, is_lines: bool) -> None:
        self._file, self._schema = file, schema
        self._between, self._end = ("\n", "\n") if is_lines else (",\n", "]\n")
        self._is_first = True
        file.write("" if is_lines else "[")

    def write(self, batch: pa.RecordBatch) -> None:
        for entry in label_entries(batch.replace_schema_metadata(self._schema.metadata)):
            self._file.write(("" if self._is_first else self._between) + json.dumps(entry))
            self._is_first = False

    def end(self) -> None:
        self._file.write("" if self._is_first and self._end == "\n" else self._end)
