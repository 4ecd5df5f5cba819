"""Images packed in one file: members of a tar, rows of a Parquet file."""

import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raylabel import storage
from raylabel.dataset.image_errors import ImageError

_REFERENCE = re.compile(r"(.+\.(?:tar|parquet))#(.+)", re.DOTALL)
BYTES_COLUMN = "bytes"


def split_reference(uri: str) -> tuple[str, str] | None:
    """Container and key of `file.tar#member` or `file.parquet#row`, None for a plain path or URI."""
    match = _REFERENCE.fullmatch(uri)
    return (match[1], match[2]) if match else None


@dataclass(frozen=True, kw_only=True)
class TarMember:
    """Place of a file's content in an uncompressed tar."""

    name: str
    offset: int
    num_bytes: int


def tar_members(uri: str) -> Iterator[TarMember]:
    """Regular files of a tar, in its order, header by header.

    Raises:
        tarfile.TarError: it is not an uncompressed tar.
        FileNotFoundError: it is missing.
    """
    file_system, path = storage.open_uri(uri)
    with file_system.open_input_file(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        while (one := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # it would grow with the tar
            if one.isfile():
                yield TarMember(name=one.name, offset=one.offset_data, num_bytes=one.size)


class ContainerReader:
    """Reads members of containers; the index of the last tar and the last Parquet row group are kept."""

    def __init__(self) -> None:
        self._open: tuple[str, Callable[[str], bytes]] | None = None

    def read(self, uri: str, key: str) -> bytes:
        """Encoded image of a tar's member or a Parquet file's row.

        Raises:
            ImageError: the container has no such member, or cannot be read.
            FileNotFoundError: the container is missing.
        """
        try:
            if self._open is None or self._open[0] != uri:
                self._open = uri, (_TarReader(uri) if uri.endswith(".tar") else _ParquetReader(uri))
            return self._open[1](key)
        except (tarfile.TarError, pa.ArrowInvalid) as error:
            raise ImageError(f"container unreadable: {error}") from None


class _TarReader:
    def __init__(self, uri: str) -> None:
        self._members = {member.name: member for member in tar_members(uri)}
        file_system, path = storage.open_uri(uri)
        self._file = file_system.open_input_file(path)

    def __call__(self, name: str) -> bytes:
        if name not in self._members:
            raise ImageError("missing")
        member = self._members[name]
        return self._file.read_at(member.num_bytes, member.offset)


class _ParquetReader:
    def __init__(self, uri: str) -> None:
        file_system, path = storage.open_uri(uri)
        self._file = pq.ParquetFile(file_system.open_input_file(path))
        self._num_rows = [
            self._file.metadata.row_group(group).num_rows for group in range(self._file.metadata.num_row_groups)
        ]
        self._latest: tuple[int, Any] | None = None

    def __call__(self, row_text: str) -> bytes:
        row, group = int(row_text) if row_text.isdecimal() else -1, 0
        while group < len(self._num_rows) and row >= self._num_rows[group]:
            row, group = row - self._num_rows[group], group + 1
        if row < 0 or group == len(self._num_rows) or BYTES_COLUMN not in self._file.schema_arrow.names:
            raise ImageError("missing")
        if self._latest is None or self._latest[0] != group:
            self._latest = group, self._file.read_row_group(group, columns=[BYTES_COLUMN])[BYTES_COLUMN]
        return self._latest[1][row].as_py() or b""
