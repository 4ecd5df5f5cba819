"""Files of a run, on a local disk or an object store: URIs, atomic commits, the run folder."""

import hashlib
import io
import json
import os
import posixpath
import re
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from raylabel.errors import InputError

_LISTING_THREADS = 16
_TEMPORARY = re.compile(r".+\.[0-9a-f]{32}\.tmp")


@lru_cache(maxsize=64)
def _file_system(scheme_and_host: str) -> fs.FileSystem:
    return fs.FileSystem.from_uri(scheme_and_host)[0]


def open_uri(uri: str) -> tuple[fs.FileSystem, str]:
    """File system and path of a local path or URI (`file://`, `s3://`, `gs://`, ...).

    Raises:
        InputError: the scheme is unknown.
    """
    if "://" not in uri:
        return fs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
    try:
        if uri.startswith("file://"):
            return fs.FileSystem.from_uri(uri)
        scheme, rest = uri.split("://", 1)
        host = rest.split("/", 1)[0]
        return _file_system(f"{scheme}://{host}"), rest
    except (pa.ArrowInvalid, ValueError) as error:
        raise InputError(f"{uri}: {error}") from error


def join(uri: str, *parts: str) -> str:
    """Append path parts to a path or URI."""
    return posixpath.join(uri, *parts)


def exists(uri: str) -> bool:
    """Whether a file or folder is there."""
    file_system, path = open_uri(uri)
    return file_system.get_file_info(path).type != fs.FileType.NotFound


def read_bytes(uri: str) -> bytes:
    """The whole content of a file.

    Raises:
        FileNotFoundError: it is not there.
    """
    file_system, path = open_uri(uri)
    with file_system.open_input_file(path) as file:
        return file.read()


def commit_bytes(uri: str, content: bytes) -> None:
    """Write a file so that it appears whole or not at all: temporary name and rename, or one PUT on an object store."""
    file_system, path = open_uri(uri)
    if isinstance(file_system, fs.LocalFileSystem):
        file_system.create_dir(posixpath.dirname(path), recursive=True)
        temporary = f"{path}.{uuid.uuid4().hex}.tmp"
        with file_system.open_output_stream(temporary) as file:
            file.write(content)
        file_system.move(temporary, path)
    else:
        with file_system.open_output_stream(path) as file:
            file.write(content)


def list_files(uri: str, *, suffix: str = "", recursive: bool = False) -> list[fs.FileInfo]:
    """Files below a folder, sorted by path; none where the folder is absent. Names that start with "." and unfinished
    temporary files are left out."""
    file_system, path = open_uri(uri)
    selector = fs.FileSelector(path, allow_not_found=True, recursive=recursive)
    found = [
        info
        for info in file_system.get_file_info(selector)
        if info.type == fs.FileType.File
        and info.base_name.endswith(suffix)
        and not info.base_name.startswith(".")
        and not info.base_name.endswith(".tmp")
    ]
    return sorted(found, key=lambda info: info.path)


def walk_files(uri: str) -> Iterator[str]:
    """Paths, relative to a folder, of all files below it, in any order; nothing hidden.

    One directory at a time is held (on object stores, which answer slowly, 16), whatever the size of the tree. Links
    are followed, but not in circles. Bytes of local names that are not UTF-8 are lone surrogates in the text.

    Raises:
        InputError: a folder may not be listed.
    """
    file_system, root = open_uri(uri)
    if isinstance(file_system, fs.LocalFileSystem):
        yield from _walk_local(root)
        return
    root = root.rstrip("/")
    pending = [root]
    with ThreadPoolExecutor(_LISTING_THREADS) as threads:
        while pending:
            selectors = [fs.FileSelector(folder) for folder in pending[-_LISTING_THREADS:]]
            del pending[-_LISTING_THREADS:]
            for infos in threads.map(file_system.get_file_info, selectors):
                for info in infos:
                    if info.base_name.startswith("."):
                        continue
                    if info.type == fs.FileType.Directory:
                        pending.append(info.path)
                    elif info.type == fs.FileType.File:
                        yield info.path[len(root) + 1 :]


def _walk_local(root: str) -> Iterator[str]:
    # With each folder go the identities of those above it: a link to one of them is a circle.
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while pending:
        folder, above = pending.pop()
        try:
            entries = os.scandir(os.path.join(root, folder))
        except PermissionError as error:
            raise InputError(f"{os.path.join(root, folder)}: no permission to list the folder") from error
        with entries:
            status = os.stat(os.path.join(root, folder))
            above |= {(status.st_dev, status.st_ino)}
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    status = entry.stat()
                    if (status.st_dev, status.st_ino) not in above:
                        pending.append((path, above))
                elif entry.is_file() or entry.is_symlink():
                    yield path


def remove_temporary(uri: str) -> int:
    """Delete what writers that died left unfinished below a local folder; returns how many files.

    Object stores have none: there a file is one PUT.
    """
    file_system, root = open_uri(uri)
    if not isinstance(file_system, fs.LocalFileSystem):
        return 0
    num_removed = 0
    for folder, _, names in os.walk(root):
        for name in filter(_TEMPORARY.fullmatch, names):
            os.remove(os.path.join(folder, name))
            num_removed += 1
    return num_removed


def remove(uri: str) -> None:
    """Delete a file or folder; nothing where it is absent."""
    file_system, path = open_uri(uri)
    kind = file_system.get_file_info(path).type
    if kind == fs.FileType.Directory:
        file_system.delete_dir(path)
    elif kind == fs.FileType.File:
        file_system.delete_file(path)


def move_folder(source: str, target: str) -> None:
    """Move every file below a folder; on object stores, which know no folders, file by file."""
    file_system, source_path = open_uri(source)
    _, target_path = open_uri(target)
    if isinstance(file_system, fs.LocalFileSystem):
        file_system.create_dir(posixpath.dirname(target_path), recursive=True)
        file_system.move(source_path, target_path)
        return
    for info in file_system.get_file_info(fs.FileSelector(source_path, recursive=True)):
        if info.type == fs.FileType.File:
            file_system.move(info.path, target_path + info.path.removeprefix(source_path))


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
    return pq.read_table(io.BytesIO(read_bytes(uri)))


def read_table_metadata(uri: str) -> dict[str, str]:
    """Key-value metadata of a Parquet file's schema, without reading its rows."""
    file_system, path = open_uri(uri)
    with file_system.open_input_file(path) as file:
        metadata = pq.read_schema(file).metadata or {}
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


@dataclass(frozen=True)
class RunFolder:
    """A run: one folder a stage, each with an `artifact.json` that is written last.

    Attributes:
        uri: local path or URI.
    """

    uri: str

    def path(self, *parts: str) -> str:
        """Path or URI of a file in the run."""
        return join(self.uri, *parts)

    def artifact(self, stage: str) -> dict[str, Any] | None:
        """What a finished stage said of itself, or None where it is not finished."""
        path = self.path(stage, "artifact.json")
        return read_json(path) if exists(path) else None

    def commit_artifact(self, stage: str, content: dict[str, Any]) -> None:
        """Declare a stage finished."""
        commit_json(self.path(stage, "artifact.json"), content)
