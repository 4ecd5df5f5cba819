"""Files and folders that are copied, moved or removed within a store."""

import posixpath
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from pyarrow import fs

from raylabel.files.file_systems import is_object_store, open_uri
from raylabel.files.retries import retried

_COPYING_THREADS = 16


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
