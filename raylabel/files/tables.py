"""Arrow tables in Parquet files, read and committed whole."""

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raylabel.files.committing import commit_bytes
from raylabel.files.file_systems import open_uri
from raylabel.files.reading import read_bytes
from raylabel.files.retries import retried


def commit_table(uri: str, table: pa.Table) -> int:
    """Commit a table as Parquet, with its schema metadata. Returns the size of the file in bytes."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    commit_bytes(uri, buffer.getvalue())
    return buffer.getbuffer().nbytes


def read_table(uri: str) -> pa.Table:
    """Read a whole Parquet file."""
    # Not pq.read_table, because its threads release the bytes later. The process aborts if Python exits in between.
    return pq.ParquetFile(pa.BufferReader(read_bytes(uri))).read()


def read_table_metadata(uri: str) -> dict[str, str]:
    """Read the key-value metadata of a Parquet file's schema, without its rows."""
    file_system, path = open_uri(uri)

    def read() -> Any:
        with file_system.open_input_file(path) as file:
            return pq.read_schema(file).metadata or {}

    metadata = retried(read, uri=uri, doing="read")
    return {key.decode(): value.decode() for key, value in metadata.items() if not key.startswith(b"ARROW")}
