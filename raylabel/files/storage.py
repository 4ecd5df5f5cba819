"""Reading and committing whole files on a local disk or an object store."""

import errno
import hashlib
import io
import json
import os
import posixpath
import stat
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.http import HTTPFileSystem
from pyarrow import fs

from raylabel.errors import InputError, StorageError, shown, shown_error
from raylabel.files.file_systems import is_object_store, open_uri, split_options
from raylabel.files.json_text import parse_json
from raylabel.files.retries import retried
from raylabel.files.stored_file import StoredFile

_FILE = "file://"
_PIECE_BYTES = 2**20
_COPYING_THREADS = 16


def join(uri: str, *parts: str) -> str:
    """Append path parts to a path or URI. Options at the end of the URI stay at the end.

    Parts are names: "#", "?" and "%" stand for themselves. An absolute path or a URI among the parts replaces
    everything before it, as in `posixpath.join`.
    """
    for place, part in enumerate(parts):
        if "://" in part or posixpath.isabs(part):
            return join(part, *parts[place + 1 :])
    base, options = split_options(uri)
    if base.startswith(_FILE):
        parts = tuple(part.replace("%", "%25") for part in parts)
    return posixpath.join(base, *parts) + options


def split(uri: str) -> tuple[str, str]:
    """Split a path or URI into its folder and its name. `join` puts them together again.

    Options at the end of the URI go to the folder. A slash at the end of the path does not count.
    """
    base, options = split_options(uri)
    folder, slash, name = base.rstrip("/").rpartition("/")
    if not folder or folder == _FILE:  # the root of a disk
        folder += slash
    return folder + options, unquote(name, errors="surrogateescape") if base.startswith(_FILE) else name


def climbs_out(relative: str) -> bool:
    """Tell whether a relative path leads out of its folder."""
    return posixpath.isabs(relative) or posixpath.normpath(relative).split("/", 1)[0] == ".."


def exists(uri: str) -> bool:
    """Tell whether a file or folder exists."""
    return file_type(uri) != fs.FileType.NotFound


def file_type(uri: str) -> fs.FileType:
    """Return the type of a path or URI: a file, a folder, something else (a device, a pipe), or nothing.

    Raises:
        InputError: no file can have the name: it is too long, not UTF-8, or has a zero byte.
    """
    file_system, path = open_uri(uri)
    try:
        return retried(lambda: file_system.get_file_info(path).type, uri=uri, doing="read")
    except (UnicodeEncodeError, pa.ArrowInvalid) as error:
        raise InputError(f"{shown(uri)}: no file can have this name: {shown_error(error)}") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"{shown(uri)}: no file can have this name: it is too long") from error
        raise


def file_bytes(uri: str) -> int | None:
    """Return the size of a file in bytes. None if there is no file, or its store does not tell."""
    file_system, path = open_uri(uri)
    size: int | None = retried(lambda: file_system.get_file_info(path).size, uri=uri, doing="read")
    return size


def read_bytes(uri: str, *, max_bytes: int | None = None) -> bytes:
    """Read the whole content of a file.

    Args:
        uri: local path or URI.
        max_bytes: size limit. Larger files are refused: unread if their size is known, else when the limit is read.

    Raises:
        FileNotFoundError: the file does not exist.
        IsADirectoryError: the URI is a folder.
        SpecialFileError: the URI is a device, a pipe or a socket; reading it might never end.
        TooLargeError: the file has more than `max_bytes` bytes.
        StorageError: disk or network failed until the last retry.
    """
    file_system, path = open_uri(uri)
    read = _read_local if isinstance(file_system, fs.LocalFileSystem) else _read_remote
    return retried(lambda: read(file_system, path, max_bytes), uri=uri, doing="read")


class SpecialFileError(OSError):
    """A path that is neither a file nor a folder."""


class TooLargeError(Exception):
    """A file that is larger than the caller wants to read."""


def _read_local(file_system: fs.FileSystem, path: str, max_bytes: int | None) -> bytes:
    # O_NONBLOCK, because opening a pipe would otherwise wait for a writer.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise SpecialFileError(errno.ENXIO, "neither a file nor a folder", path)
        _check_size(status.st_size, max_bytes)
        return file.read()


def _read_remote(file_system: fs.FileSystem, path: str, max_bytes: int | None) -> bytes:
    if isinstance(file_system, fs.PyFileSystem):
        # Read with fsspec, because pyarrow's adapter reports a network error as a missing file.
        known = file_system.handler.fs
        return known.cat_file(path) if max_bytes is None else _read_stream(known, path, max_bytes)
    with file_system.open_input_file(path) as file:
        _check_size(file.size(), max_bytes)
        return file.read()


def _read_stream(known: Any, path: str, max_bytes: int) -> bytes:
    """Read a file of fsspec up to a limit, because its size may be unknown, or a lie."""
    # A web server is asked for one stream. The size spares a request for it, and is used for nothing else.
    options = {"block_size": 0, "size": 1} if isinstance(known, HTTPFileSystem) else {}
    with known.open(path, "rb", **options) as file:
        content = io.BytesIO()
        while piece := file.read(_PIECE_BYTES):
            if content.tell() + len(piece) > max_bytes:
                raise TooLargeError(f"more than {max_bytes} bytes")
            content.write(piece)
        return content.getvalue()


def _check_size(num_bytes: int, max_bytes: int | None) -> None:
    if max_bytes is not None and num_bytes > max_bytes:
        raise TooLargeError(f"{num_bytes} bytes")


def open_users_file(uri: str) -> BinaryIO:
    """Open a file whose path a user gave, to be read as a stream. Single reads are retried.

    Raises:
        InputError: there is no such file; the message names it.
        StorageError: disk or network failed until the last retry.
    """
    file_system, _ = open_uri(uri)
    if isinstance(file_system, fs.PyFileSystem):  # a web server may not know parts of files
        return io.BytesIO(_read_users_file(uri))
    with _named_users_file(uri):
        if file_type(uri) == fs.FileType.Unknown:
            raise SpecialFileError(errno.ENXIO, "neither a file nor a folder", uri)
        return io.BufferedReader(StoredFile(uri), _PIECE_BYTES)


def commit_bytes(uri: str, content: bytes) -> None:
    """Write a file so that it appears whole or not at all.

    An object store gets one upload. Other stores get a temporary file that is renamed.

    Raises:
        InputError: the path is a folder, or a parent of the path is a file.
        StorageError: the disk is full, the place is not writable, or the store fails until the last retry. No part of
            the file is left.
    """
    _commit(uri, [content], len(content))


def commit_file(uri: str, source: str) -> None:
    """Write a copy of a local file of any size so that it appears whole or not at all; see `commit_bytes`."""
    _commit(uri, _Pieces(source), os.path.getsize(source))


@contextmanager
def committed_file(uri: str) -> Iterator[str]:
    """Yield a local path to write a file to. After the block the file appears at `uri`, whole or not at all.

    It is for files that are too large for the memory. Other stores get the finished file from a temporary folder.

    Raises:
        InputError, StorageError: see `commit_bytes`.
    """
    file_system, path = open_uri(uri)
    if isinstance(file_system, fs.LocalFileSystem):
        with _named_failures(uri), _renamed_at_end(path) as temporary:
            yield temporary
        return
    with TemporaryDirectory() as folder:
        written = posixpath.join(folder, "file")
        yield written
        commit_file(uri, written)


def _commit(uri: str, pieces: Iterable[bytes], num_bytes: int) -> None:
    file_system, path = open_uri(uri, upload_bytes=num_bytes)
    if isinstance(file_system, fs.LocalFileSystem):
        commit = _commit_local
    else:
        commit = _upload if is_object_store(file_system) else _commit_remote
    with _named_failures(uri):
        retried(lambda: commit(file_system, path, pieces), uri=uri, doing="write", num_bytes=num_bytes)


@contextmanager
def _named_failures(uri: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{uri}: could not write: {' '.join(str(error).split())}") from error


class _Pieces:
    """The content of a local file in pieces, as often as it is asked for."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __iter__(self) -> Iterator[bytes]:
        with open(self._path, "rb") as file:
            while piece := file.read(_PIECE_BYTES):
                yield piece


@contextmanager
def _renamed_at_end(path: str) -> Iterator[str]:
    if os.path.isdir(path):
        raise InputError(f"{path}: must be a file to write, got a folder")
    try:
        os.makedirs(posixpath.dirname(path), exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise InputError(f"{path}: cannot create its folder: {error}") from error
    temporary = _temporary(path)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _commit_local(file_system: fs.FileSystem, path: str, pieces: Iterable[bytes]) -> None:
    with _renamed_at_end(path) as temporary, open(temporary, "wb") as file:
        file.writelines(pieces)


def _commit_remote(file_system: fs.FileSystem, path: str, pieces: Iterable[bytes]) -> None:
    file_system.create_dir(posixpath.dirname(path), recursive=True)
    temporary = _temporary(path)
    try:
        with file_system.open_output_stream(temporary) as file:
            for piece in pieces:
                file.write(piece)
        file_system.move(temporary, path)
    except BaseException:
        with suppress(Exception):
            file_system.delete_file(temporary)
        raise


def _upload(file_system: fs.FileSystem, path: str, pieces: Iterable[bytes]) -> None:
    # No `with`, because closing a stream publishes the bytes written so far. So does dropping the last reference to it.
    # A separate thread, because Ctrl-C cannot interrupt it. A stream that failed to send a part cannot publish.
    def send() -> None:
        file = file_system.open_output_stream(path)
        for piece in pieces:
            file.write(piece)
        file.close()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(send).result()


def _temporary(path: str) -> str:
    return f"{path}.{uuid.uuid4().hex}.tmp"


def list_files(uri: str, *, suffix: str = "", recursive: bool = False) -> list[fs.FileInfo]:
    """List the files below a folder, sorted by path. A missing folder has none.

    Names that start with "." and unfinished temporary files are left out.
    """
    file_system, path = open_uri(uri)
    selector = fs.FileSelector(path, allow_not_found=True, recursive=recursive)
    found = [
        info
        for info in retried(lambda: file_system.get_file_info(selector), uri=uri, doing="read")
        if info.type == fs.FileType.File
        and info.base_name.endswith(suffix)
        and not info.base_name.startswith(".")
        and not info.base_name.endswith(".tmp")
    ]
    return sorted(found, key=lambda info: info.path)


def remove(uri: str) -> None:
    """Delete a file or folder. A missing one is no error."""
    file_system, path = open_uri(uri)
    retried(lambda: _delete(file_system, path), uri=uri, doing="remove")


def _delete(file_system: fs.FileSystem, path: str) -> None:
    kind = file_system.get_file_info(path).type
    # Another process, or an earlier try that seemed to fail, may have deleted it already.
    with suppress(FileNotFoundError):
        if kind == fs.FileType.Directory:
            file_system.delete_dir(path)
        elif kind != fs.FileType.NotFound:
            file_system.delete_file(path)


def copy_file(source: str, target: str) -> None:
    """Copy a file within one file system. A store copies it itself. A kill may leave a part of the copy."""
    file_system, source_path = open_uri(source)
    _, target_path = open_uri(target)
    if not is_object_store(file_system):
        file_system.create_dir(posixpath.dirname(target_path), recursive=True)
    retried(partial(file_system.copy_file, source_path, target_path), uri=source, doing="copy")


def move_folder(source: str, target: str) -> None:
    """Move a folder with every file below it.

    Object stores have no folders. There the files are copied, many at a time, and then deleted. A kill in between
    leaves copies, and the source as it was or a part of it.
    """
    file_system, source_path = open_uri(source)
    _, target_path = open_uri(target)
    if not is_object_store(file_system):
        file_system.create_dir(posixpath.dirname(target_path), recursive=True)
        file_system.move(source_path, target_path)
        return
    selector = fs.FileSelector(source_path, recursive=True)
    found = retried(lambda: file_system.get_file_info(selector), uri=source, doing="read")
    paths = [info.path for info in found if info.type == fs.FileType.File]

    def copy(path: str) -> None:
        copied_path = target_path + path.removeprefix(source_path)
        retried(partial(file_system.copy_file, path, copied_path), uri=source, doing="move")

    with ThreadPoolExecutor(_COPYING_THREADS) as threads:
        list(threads.map(copy, paths))
    remove(source)


def commit_json(uri: str, content: Any) -> None:
    """Commit a value as indented JSON."""
    commit_bytes(uri, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def read_json(uri: str) -> Any:
    """Read a JSON file, see `parse_json`.

    Raises:
        InputError: the file is missing or not JSON; the message names it.
    """
    return parse_json(_read_users_file(uri), uri)


def read_json_object(uri: str) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        InputError: the file is missing, not JSON, or holds something else; the message names it.
    """
    content = read_json(uri)
    if not isinstance(content, dict):
        raise InputError(f"{uri}: must be a JSON object, got {type(content).__name__}")
    return content


def _read_users_file(uri: str) -> bytes:
    """Read a file whose path a user gave, and refuse what is no file in one line."""
    with _named_users_file(uri):
        return read_bytes(uri)


@contextmanager
def _named_users_file(uri: str) -> Iterator[None]:
    """Refuse a user's path that is no file in one line."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{uri}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{uri}: must be a file, got a folder") from None
    except SpecialFileError as error:
        raise InputError(f"{uri}: must be a file, got {error.strerror}") from None


def commit_table(uri: str, table: pa.Table) -> None:
    """Commit a table as Parquet, with its schema metadata."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    commit_bytes(uri, buffer.getvalue())


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


def digest(content: Any) -> str:
    """Return the SHA-256 of a value that JSON can hold, independent of the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def file_digest(uri: str) -> str:
    """Return the SHA-256 of a file's content. The file is read as a stream.

    Raises:
        InputError: the file is missing.
    """
    hashed = hashlib.sha256()
    with open_users_file(uri) as file:
        while piece := file.read(_PIECE_BYTES):
            hashed.update(piece)
    return hashed.hexdigest()
