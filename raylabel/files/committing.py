"""Writing of files that appear whole or not at all, on a local disk or an object store."""

import os
import posixpath
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from tempfile import TemporaryDirectory

from pyarrow import fs

from raylabel.errors import InputError, StorageError
from raylabel.files.file_systems import is_object_store, open_uri
from raylabel.files.reading import PIECE_BYTES
from raylabel.files.retries import retried


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
            while piece := file.read(PIECE_BYTES):
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
