"""Reading of whole files, and what a store tells of a path: type, size, the files of a folder."""

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa
from fsspec.implementations.http import HTTPFileSystem
from pyarrow import fs

from raylabel.errors import InputError, shown, shown_error
from raylabel.files.file_systems import open_uri
from raylabel.files.retries import retried
from raylabel.files.stored_file import StoredFile

PIECE_BYTES = 2**20
"""Bytes of a stream that are read at once."""


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
        while piece := file.read(PIECE_BYTES):
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
        return io.BytesIO(read_users_file(uri))
    with _named_users_file(uri):
        if file_type(uri) == fs.FileType.Unknown:
            raise SpecialFileError(errno.ENXIO, "neither a file nor a folder", uri)
        return io.BufferedReader(StoredFile(uri), PIECE_BYTES)


def read_users_file(uri: str) -> bytes:
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
