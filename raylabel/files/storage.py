"""Files of a run, on a local disk or an object store: URIs, atomic commits, the run folder."""

import errno
import hashlib
import io
import json
import os
import posixpath
import stat
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from raylabel.errors import InputError, StorageError
from raylabel.files.file_systems import is_object_store, open_uri, split_options
from raylabel.files.retries import retried


def join(uri: str, *parts: str) -> str:
    """Append path parts to a path or URI; options at its end stay there."""
    base, options = split_options(uri)
    return posixpath.join(base, *parts) + options


def exists(uri: str) -> bool:
    """Whether a file or folder is there."""
    return file_type(uri) != fs.FileType.NotFound


def file_type(uri: str) -> fs.FileType:
    """What is there: a file, a folder, something else (a device, a pipe), or nothing."""
    file_system, path = open_uri(uri)
    return retried(lambda: file_system.get_file_info(path).type, uri=uri, doing="read")


def read_bytes(uri: str, *, max_bytes: int | None = None) -> bytes:
    """The whole content of a file.

    Args:
        uri: local path or URI.
        max_bytes: larger files are not read.

    Raises:
        FileNotFoundError: it is not there.
        IsADirectoryError: it is a folder.
        SpecialFileError: it is a device, a pipe or a socket, which might be read for ever.
        TooLargeError: it has more than `max_bytes`.
        StorageError: disk or network failed for longer than trying again lasts.
    """
    file_system, path = open_uri(uri)
    read = _read_local if isinstance(file_system, fs.LocalFileSystem) else _read_remote
    return retried(lambda: read(file_system, path, max_bytes), uri=uri, doing="read")


class SpecialFileError(OSError):
    """What is there is neither a file nor a folder."""


class TooLargeError(Exception):
    """A file is larger than the caller wants to read."""


def _read_local(file_system: fs.FileSystem, path: str, max_bytes: int | None) -> bytes:
    # Opening a pipe without O_NONBLOCK waits for a writer.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise SpecialFileError(errno.ENXIO, "neither a file nor a folder", path)
        _check_size(status.st_size, max_bytes)
        return file.read()


def _read_remote(file_system: fs.FileSystem, path: str, max_bytes: int | None) -> bytes:
    if isinstance(file_system, fs.PyFileSystem):
        # pyarrow's adapter takes an error of the network for a file that is not there.
        content = file_system.handler.fs.cat_file(path)
        _check_size(len(content), max_bytes)
        return content
    with file_system.open_input_file(path) as file:
        _check_size(file.size(), max_bytes)
        return file.read()


def _check_size(num_bytes: int, max_bytes: int | None) -> None:
    if max_bytes is not None and num_bytes > max_bytes:
        raise TooLargeError(f"{num_bytes} bytes")


def commit_bytes(uri: str, content: bytes) -> None:
    """Write a file so that it appears whole or not at all: one upload to an object store, else a temporary name and a
    rename.

    Raises:
        InputError: a folder has that name, or a file that of its folder.
        StorageError: the disk is full, nothing may be written there, or the store fails for longer than trying again
            lasts; nothing is left over.
    """
    file_system, path = open_uri(uri, upload_bytes=len(content))
    if isinstance(file_system, fs.LocalFileSystem):
        commit = _commit_local
    else:
        commit = _upload if is_object_store(file_system) else _commit_remote
    try:
        retried(lambda: commit(file_system, path, content), uri=uri, doing="write", num_bytes=len(content))
    except OSError as error:
        raise StorageError(f"{uri}: could not write: {' '.join(str(error).split())}") from error


def _commit_local(file_system: fs.FileSystem, path: str, content: bytes) -> None:
    if os.path.isdir(path):
        raise InputError(f"{path}: must be a file to write, is a folder")
    try:
        os.makedirs(posixpath.dirname(path), exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise InputError(f"{path}: its folder can't be made: {error}") from error
    temporary = _temporary(path)
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _commit_remote(file_system: fs.FileSystem, path: str, content: bytes) -> None:
    file_system.create_dir(posixpath.dirname(path), recursive=True)
    temporary = _temporary(path)
    try:
        with file_system.open_output_stream(temporary) as file:
            file.write(content)
        file_system.move(temporary, path)
    except BaseException:
        with suppress(Exception):
            file_system.delete_file(temporary)
        raise


def _upload(file_system: fs.FileSystem, path: str, content: bytes) -> None:
    # Closing a stream publishes what was written so far, and so does forgetting it: no `with`, and in a thread of its
    # own, where Ctrl-C does not come in between. A stream that failed to send a part can't publish.
    def send() -> None:
        file = file_system.open_output_stream(path)
        file.write(content)
        file.close()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(send).result()


def _temporary(path: str) -> str:
    return f"{path}.{uuid.uuid4().hex}.tmp"


def list_files(uri: str, *, suffix: str = "", recursive: bool = False) -> list[fs.FileInfo]:
    """Files below a folder, sorted by path; none where the folder is absent. Names that start with "." and unfinished
    temporary files are left out."""
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
    """Delete a file or folder; nothing where it is absent."""
    file_system, path = open_uri(uri)
    retried(lambda: _delete(file_system, path), uri=uri, doing="remove")


def _delete(file_system: fs.FileSystem, path: str) -> None:
    kind = file_system.get_file_info(path).type
    # What another process, or a try that seemed to fail, has removed is removed.
    with suppress(FileNotFoundError):
        if kind == fs.FileType.Directory:
            file_system.delete_dir(path)
        elif kind != fs.FileType.NotFound:
            file_system.delete_file(path)


def move_folder(source: str, target: str) -> None:
    """Move every file below a folder; on object stores, which know no folders, file by file."""
    file_system, source_path = open_uri(source)
    _, target_path = open_uri(target)
    if not is_object_store(file_system):
        file_system.create_dir(posixpath.dirname(target_path), recursive=True)
        file_system.move(source_path, target_path)
        return
    selector = fs.FileSelector(source_path, recursive=True)
    for info in retried(lambda: file_system.get_file_info(selector), uri=source, doing="read"):
        if info.type == fs.FileType.File:
            copied_path = target_path + info.path.removeprefix(source_path)
            retried(partial(file_system.copy_file, info.path, copied_path), uri=source, doing="move")
            retried(partial(_delete, file_system, info.path), uri=source, doing="move")


def commit_json(uri: str, content: Any) -> None:
    """Commit as indented JSON."""
    commit_bytes(uri, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def read_json(uri: str) -> Any:
    """Read a JSON file.

    Raises:
        InputError: it is missing or not JSON; the message names it.
    """
    try:
        return json.loads(read_bytes(uri))
    except FileNotFoundError:
        raise InputError(f"{uri}: no such file") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{uri}: not JSON: {error}") from error


def commit_table(uri: str, table: pa.Table) -> None:
    """Commit as Parquet, with the table's schema metadata."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    commit_bytes(uri, buffer.getvalue())


def read_table(uri: str) -> pa.Table:
    """Read a Parquet file whole."""
    # Not pq.read_table: its threads let go of the bytes later, which aborts the process where Python exits then.
    return pq.ParquetFile(pa.BufferReader(read_bytes(uri))).read()


def read_table_metadata(uri: str) -> dict[str, str]:
    """Key-value metadata of a Parquet file's schema, without reading its rows."""
    file_system, path = open_uri(uri)

    def read() -> Any:
        with file_system.open_input_file(path) as file:
            return pq.read_schema(file).metadata or {}

    metadata = retried(read, uri=uri, doing="read")
    return {key.decode(): value.decode() for key, value in metadata.items() if not key.startswith(b"ARROW")}


def digest(content: Any) -> str:
    """SHA-256 of a JSON-able value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def file_digest(uri: str) -> str:
    """SHA-256 of a file's content.

    Raises:
        InputError: it is missing.
    """
    try:
        return hashlib.sha256(read_bytes(uri)).hexdigest()
    except FileNotFoundError:
        raise InputError(f"{uri}: no such file") from None
