"""RUN/data/: what a run keeps of its annotation files, so that each is read once and not by every worker.

    data/
      DIGEST/          the columns of a file (`dataset.annotated_copy`): images.arrow, objects.arrow, set.json
                       orientation.json: the orientation of its images, as their headers tell
      digest-*.json    SHA-256 of a file's content, with the size and times at which it was taken
      inspection-*.json, headers-*.parquet: what `check` found in the annotations and images of a split

A folder's name is the digest of the file's content and of the images' place, so another file gets another folder.
A nested run uses the folder of its outermost run.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np

from raylabel.dataset.annotated_copy import DESCRIPTION_FILE, FILES, open_copy, write_copy
from raylabel.dataset.annotated_set import AnnotatedSet
from raylabel.dataset.image_headers import NUM_TELLING, Orientation, find_orientation
from raylabel.dataset.object_rows import DamagedCopyError
from raylabel.errors import InputError
from raylabel.files.committing import commit_file
from raylabel.files.digests import digest, file_digest
from raylabel.files.file_systems import local_path, open_uri
from raylabel.files.json_files import commit_json, read_json
from raylabel.files.json_text import checked_as
from raylabel.files.paths import join, split
from raylabel.files.reading import exists
from raylabel.redaction import redacted
from raylabel.run.folder import RunFolder

DATA_FOLDER = "data"
_FORMAT = 1
"""Another number makes every copy again."""

SURE_AFTER_NS = 2 * 10**9
"""A file that was changed within this time may be changed again without another time of change."""

_Kind = TypeVar("_Kind")


def open_annotations(run: RunFolder, path: str, images_root: str | None) -> AnnotatedSet:
    """Open the run's copy of an annotation file. Read the file and keep its columns if there is no sound copy.

    Raises:
        InputError: see `read_annotations`.
        StorageError: the copy can't be written.
    """
    folder = _copy_folder(run, path, images_root)
    try:
        return open_copy(folder, path, images_root)
    except DamagedCopyError:
        if exists(join(folder, DESCRIPTION_FILE)):
            print(f"{redacted(folder)}: damaged or out of date; {redacted(path)} is read again", flush=True)
    with TemporaryDirectory(prefix="raylabel-") as temporary:
        write_copy(path, images_root, temporary)
        for name in FILES:
            commit_file(join(folder, name), os.path.join(temporary, name))
    return open_copy(folder, path, images_root)


def are_stored(run: RunFolder, path: str, images_root: str | None, annotated: AnnotatedSet, *, max_pixels: int) -> bool:
    """Tell whether a file annotates stored pixels; see `find_orientation`. What is sure is kept in the run."""
    uri = join(_copy_folder(run, path, images_root), "orientation.json")
    kept = _kept(_Orientation, uri)
    if kept is not None and kept.max_pixels == max_pixels:
        return kept.as_stored
    found = orientation_of(annotated, max_pixels=max_pixels)
    if found.is_sure:
        commit_json(uri, vars(_Orientation(as_stored=found.as_stored, max_pixels=max_pixels)))
    return found.as_stored


def orientation_of(annotated: AnnotatedSet, *, max_pixels: int) -> Orientation:
    """Find the orientation in which a set annotates the images whose size alone does not tell."""
    height, width = annotated.images.sizes_hw().T
    is_open = annotated.images.columns.column("as_stored").is_null().to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(is_open & (height != width))
    num = min(NUM_TELLING, len(rows))
    telling = rows[np.arange(num) * len(rows) // max(num, 1)].tolist()
    return find_orientation([annotated.images[row].source for row in telling], max_pixels=max_pixels)


def content_digest(run: RunFolder | None, uri: str) -> str:
    """Return the SHA-256 of a file's content. Within a run, a file of unchanged size and times is not read again.

    Raises:
        InputError: the file is missing.
    """
    stamp = None if run is None else _stamp(uri)
    if run is None or stamp is None:
        return file_digest(uri)
    kept_uri = data_uri(run, f"digest-{_short(local_path(uri) or uri)}.json")
    kept = _kept(_Digest, kept_uri)
    if kept is not None and kept.stamp == stamp:
        return kept.sha256
    now = time.time_ns()
    found = file_digest(uri)
    if now - max(stamp[1:]) > SURE_AFTER_NS and _stamp(uri) == stamp:
        commit_json(kept_uri, vars(_Digest(sha256=found, stamp=stamp)))
    return found


def kept_json(run: RunFolder | None, kind: type[_Kind], name: str, of: Any, make: Callable[[], _Kind]) -> _Kind:
    """Return a dataclass that the run keeps in JSON. Make it if the run has none.

    Args:
        run: the run. None keeps nothing.
        kind: the dataclass.
        name: start of the file's name.
        of: a value that JSON can hold; everything that the dataclass depends on.
        make: returns the dataclass.
    """
    if run is None:
        return make()
    uri = data_uri(run, f"{name}-{_short(of)}.json")
    found = _kept(kind, uri)
    if found is None:
        found = make()
        commit_json(uri, vars(found))
    return found


@dataclass(frozen=True, kw_only=True)
class _Digest:
    """Content of digest-*.json. `stamp` is the size and the times of change in nanoseconds."""

    sha256: str
    stamp: list[int]


@dataclass(frozen=True, kw_only=True)
class _Orientation:
    """Content of orientation.json."""

    as_stored: bool
    max_pixels: int


def _copy_folder(run: RunFolder, path: str, images_root: str | None) -> str:
    root = split(path)[0] if images_root is None else images_root
    return data_uri(run, _short([_FORMAT, content_digest(run, path), root, images_root is None]))


def data_uri(run: RunFolder, name: str) -> str:
    return run.outermost.path(DATA_FOLDER, name)


def _short(value: Any) -> str:
    return digest(value)[:16]


def _stamp(uri: str) -> list[int] | None:
    """Return the size of a file and its times of change. None if its store tells no time."""
    path = local_path(uri)
    if path is not None:
        try:
            status = os.stat(path)
        except OSError:
            return None
        return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    file_system, path = open_uri(uri)
    info = file_system.get_file_info(path)
    return None if info.size is None or info.mtime_ns is None else [info.size, info.mtime_ns]


def _kept(kind: type[_Kind], uri: str) -> _Kind | None:
    """Read a small file of the run. None if it is missing or damaged, because it can be made again."""
    try:
        return checked_as(kind, read_json(uri), uri) if exists(uri) else None
    except InputError:
        return None
