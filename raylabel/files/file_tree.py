"""Folder trees in bounded memory: listing pools, and deleting the temporary files of dead writers."""

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from pyarrow import fs

from raylabel.errors import InputError
from raylabel.files.file_systems import open_uri
from raylabel.files.retries import retried

_LISTING_THREADS = 16
_TEMPORARY = re.compile(r".+\.[0-9a-f]{32}\.tmp")


def _ignore(path: str) -> None:
    """Do nothing with a hidden path."""


class WalkedFile(NamedTuple):
    """A file that a walk found.

    Attributes:
        path: relative path.
        num_bytes: size of the file. None if the listing does not tell it, as on a local disk.
    """

    path: str
    num_bytes: int | None


def walk_files(uri: str, *, on_hidden: Callable[[str], None] = _ignore) -> Iterator[WalkedFile]:
    """Yield the relative paths of all files below a folder, in any order. Hidden files are left out.

    Memory holds one directory at a time, or 16 on object stores, because those answer slowly. Links are followed, but
    not in circles. Bytes of local names that are not UTF-8 become lone surrogates.

    Args:
        uri: local path or URI of the folder.
        on_hidden: called with the relative path of each hidden file, and of each hidden folder without what is in it.

    Raises:
        InputError: a folder may not be listed.
    """
    file_system, root = open_uri(uri)
    if isinstance(file_system, fs.LocalFileSystem):
        yield from _walk_local(root, on_hidden)
        return
    root = root.rstrip("/")
    pending = [root]
    with ThreadPoolExecutor(_LISTING_THREADS) as threads:
        while pending:
            selectors = [fs.FileSelector(folder) for folder in pending[-_LISTING_THREADS:]]
            del pending[-_LISTING_THREADS:]
            for infos in threads.map(partial(_list_folder, file_system, uri), selectors):
                for info in infos:
                    if info.base_name.startswith("."):
                        on_hidden(info.path[len(root) + 1 :])
                    elif info.type == fs.FileType.Directory:
                        pending.append(info.path)
                    elif info.type == fs.FileType.File:
                        yield WalkedFile(info.path[len(root) + 1 :], info.size)


def _list_folder(file_system: fs.FileSystem, uri: str, selector: fs.FileSelector) -> list[fs.FileInfo]:
    return retried(lambda: file_system.get_file_info(selector), uri=uri, doing="read")


def _walk_local(root: str, on_hidden: Callable[[str], None]) -> Iterator[WalkedFile]:
    # Each folder comes with the identities of the folders above it, because a link to one of them is a circle.
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
                    on_hidden(path)
                elif entry.is_dir():
                    status = entry.stat()
                    if (status.st_dev, status.st_ino) not in above:
                        pending.append((path, above))
                elif entry.is_file() or entry.is_symlink():
                    yield WalkedFile(path, None)


def remove_temporary(uri: str) -> int:
    """Delete the temporary files of dead writers below a local folder, and return their number.

    Object stores have none, because there a file is one PUT.
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
