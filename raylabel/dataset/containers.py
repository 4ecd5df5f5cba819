"""Images packed in one file: members of a tar, or rows of a Parquet file."""

import io
import re
import tarfile
import threading
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raylabel.dataset.image_errors import ImageError
from raylabel.files.file_systems import split_options
from raylabel.files.reading import TooLargeError
from raylabel.files.stored_file import StoredFile

BYTES_COLUMN = "bytes"
# A few suffice, because shards follow the pool's order: a worker reads one or two containers at a time.
NUM_KEPT_OPEN = 8
TAR, PARQUET = ".tar", ".parquet"
_CONTAINER_END = re.compile(rf"(?<=.)(?:{re.escape(TAR)}|{re.escape(PARQUET)})#(?=.)", re.DOTALL | re.IGNORECASE)
_PLACE = re.compile(r"(.+)@(\d+)\+(\d+)", re.DOTALL)
# One request of this size fetches several headers of a tar with photographs.
_BUFFER_BYTES = 2**20
# Per row: lengths, levels and the headers of pages.
_OTHER_BYTES = 1024
# One row, because a file of 2 kB can repeat an image of 64 MiB in every row.
_ROWS_AT_ONCE, _KEPT_BYTES = 1, 64 * 2**20


def split_reference(uri: str) -> tuple[str, str] | None:
    """Split `file.tar#member` or `file.parquet#row` into container and key. A plain path or URI gives None."""
    return next(iter(possible_references(uri)), None)


def possible_references(uri: str) -> list[tuple[str, str]]:
    """Split a reference into container and key in every possible way, the longest container first.

    Names may hold "#" as well, so only the files that exist decide.
    """
    base, options = split_options(uri)
    ends = [match.end() for match in _CONTAINER_END.finditer(base)]
    return [(base[: end - 1] + options, base[end:]) for end in reversed(ends)]


def is_container(uri: str, suffix: str) -> bool:
    """Tell by its suffix, `TAR` or `PARQUET`, whether a file is such a container. The case does not matter."""
    return split_options(uri)[0].lower().endswith(suffix)


def join_reference(container_uri: str, key: str) -> str:
    """Return `container#key`. Options of the URI stay at its end."""
    base, options = split_options(container_uri)
    return f"{base}#{key}{options}"


@dataclass(frozen=True, kw_only=True)
class TarMember:
    """The place of a file's content in an uncompressed tar.

    Attributes:
        name: path of the member.
        offset: first byte of the content in the tar.
        num_bytes: size of the content.
    """

    name: str
    offset: int
    num_bytes: int

    def reference(self, tar_uri: str) -> str:
        """Return `file.tar#member@offset+bytes`.

        A reader then needs no index of the tar. Making one takes a request per member.
        """
        return join_reference(tar_uri, f"{self.name}@{self.offset}+{self.num_bytes}")


def tar_members(uri: str, *, on_link: Callable[[str], None] | None = None) -> Iterator[TarMember]:
    """Yield the regular files of a tar in its order.

    Args:
        uri: local path or URI of the tar.
        on_link: called with the name of each link. Its content would be at another place.

    Raises:
        tarfile.TarError: the file is not an uncompressed tar.
        FileNotFoundError: the file is missing.
        StorageError: disk or network failed.
    """
    with io.BufferedReader(StoredFile(uri), _BUFFER_BYTES) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for one in tar:
            tar.members = []  # type: ignore[attr-defined]  # because tarfile would keep every member
            if one.isfile():
                yield TarMember(name=one.name, offset=one.offset_data, num_bytes=one.size)
            elif on_link and (one.issym() or one.islnk()):
                on_link(one.name)


class MissingMemberError(ImageError):
    """A container without the member or row that a reference names."""


class ContainerReader:
    """Reader of members of containers that several threads may share. The containers read last stay open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[str, _Container] = OrderedDict()

    def read(self, uri: str, key: str, *, max_bytes: int) -> bytes:
        """Read the encoded image of a tar's member or a Parquet file's row.

        Raises:
            ImageError: the container has no such member, or cannot be read.
            FileNotFoundError: the container is missing.
            TooLargeError: the member is larger than `max_bytes`.
        """
        with self._lock:
            container = self._open.setdefault(uri, _Container(uri))
            self._open.move_to_end(uri)
            while len(self._open) > NUM_KEPT_OPEN:
                self._open.popitem(last=False)
        try:
            return container.read(key, max_bytes)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError):
            raise
        except (tarfile.TarError, pa.ArrowException, OSError) as error:  # pyarrow has an OSError for damaged pages
            raise ImageError(f"container unreadable: {' '.join(str(error).split())}") from None


class _Container:
    """A container that the first reading thread opens, while the others wait."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._lock = threading.Lock()
        self._reader: Callable[[str, int], bytes] | None = None

    def read(self, key: str, max_bytes: int) -> bytes:
        with self._lock:
            if self._reader is None:
                self._reader = _TarReader(self._uri) if is_container(self._uri, TAR) else _ParquetReader(self._uri)
        return self._reader(key, max_bytes)


class _TarReader:
    """Reader of a tar. It makes an index only when a member is asked for by name without a place."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._file = StoredFile(uri)
        self._lock = threading.Lock()
        self._members: dict[str, TarMember] | None = None

    def __call__(self, key: str, max_bytes: int) -> bytes:
        if place := _PLACE.fullmatch(key):
            offset, num_bytes = int(place[2]), int(place[3])
        else:
            member = self._index().get(key)
            if member is None:
                raise MissingMemberError("missing")
            offset, num_bytes = member.offset, member.num_bytes
        if num_bytes > max_bytes:
            raise TooLargeError(f"{num_bytes} bytes")
        return self._file.read_at(num_bytes, offset)

    def _index(self) -> dict[str, TarMember]:
        with self._lock:
            if self._members is None:
                self._members = {member.name: member for member in tar_members(self._uri)}
            return self._members


class _ParquetReader:
    """Reader of the rows of a Parquet file, fast if rows come roughly in order, as within a shard.

    A row group is read in pieces, so that memory does not depend on its size.
    """

    def __init__(self, uri: str) -> None:
        self._file = pq.ParquetFile(StoredFile(uri), buffer_size=_BUFFER_BYTES)
        metadata = self._file.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._first_rows = [0, *accumulate(sizes)]
        self._has_images = BYTES_COLUMN in self._file.schema_arrow.names
        paths = [self._file.schema.column(place).path for place in range(len(self._file.schema))]
        self._column = paths.index(BYTES_COLUMN) if BYTES_COLUMN in paths else 0
        self._lock = threading.Lock()
        self._pieces: deque[tuple[int, Any]] = deque()
        self._kept_bytes = 0
        self._group, self._next_row = -1, 0
        self._batches: Iterator[pa.RecordBatch] = iter(())

    def __call__(self, row_text: str, max_bytes: int) -> bytes:
        row = int(row_text) if row_text.isascii() and row_text.isdecimal() else -1
        if not 0 <= row < self._first_rows[-1] or not self._has_images:
            raise MissingMemberError("missing")
        with self._lock:
            self._check_group(row, max_bytes)
            first_row, column = self._piece_of(row)
        content: bytes = column[row - first_row].as_py() or b""
        if len(content) > max_bytes:
            raise TooLargeError(f"{len(content)} bytes")
        return content

    def _check_group(self, row: int, max_bytes: int) -> None:
        """Refuse a row group, unread, if its images have more than `max_bytes` on average."""
        group = self._file.metadata.row_group(bisect_right(self._first_rows, row) - 1)
        num_bytes: int = group.column(self._column).total_uncompressed_size
        if num_bytes > (max_bytes + _OTHER_BYTES) * group.num_rows:
            raise TooLargeError(f"{num_bytes} bytes in {group.num_rows} rows")

    def _piece_of(self, row: int) -> tuple[int, Any]:
        for first_row, column in self._pieces:
            if first_row <= row < first_row + len(column):
                return first_row, column
        group = bisect_right(self._first_rows, row) - 1
        if group != self._group or row < self._next_row:
            self._batches = self._file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=[BYTES_COLUMN])
            self._group, self._next_row = group, self._first_rows[group]
        while self._next_row <= row:
            self._group, group = -1, self._group  # restarts the row group if reading the next piece fails
            column = next(self._batches)[BYTES_COLUMN]
            self._keep(self._next_row, column)
            self._next_row += len(column)
            self._group = group
        return self._pieces[-1]

    def _keep(self, first_row: int, column: Any) -> None:
        """Keep the latest pieces, because threads read slightly out of order. Going back means rereading the row
        group."""
        self._pieces.append((first_row, column))
        self._kept_bytes += column.nbytes
        while self._kept_bytes > _KEPT_BYTES and len(self._pieces) > 1:
            self._kept_bytes -= self._pieces.popleft()[1].nbytes
