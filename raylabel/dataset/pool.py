"""The unlabelled pool: which images there are, and the fixed shards they are worked on in."""

import csv
import io
import json
import posixpath
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from raylabel import storage
from raylabel.dataset.containers import BYTES_COLUMN, tar_members
from raylabel.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True, slots=True)
class PoolImage:
    """An image of the pool.

    Attributes:
        image_id: unique in the pool.
        uri: path or URI, `file.tar#member` or `file.parquet#row`; see `ImageReader`.
    """

    image_id: str
    uri: str


@dataclass(frozen=True)
class Shard:
    """A fixed list of images: the unit of work, of retry and of commit.

    Attributes:
        shard_id: place of the shard in the pool, from 0.
        images: sorted by image id.
    """

    shard_id: int
    images: tuple[PoolImage, ...]


def list_pool(uri: str) -> list[PoolImage]:
    """Images of the pool, sorted by image id. No image is opened.

    The pool is one of:

    - a folder or URI prefix: its images by suffix, recursively, but nothing hidden; the id is the relative path. Tar
      and Parquet files in it are listed too, their ids with the file's relative path and "/" before them.
    - a manifest: `.txt` with a URI a line (which is also the id), `.jsonl` or `.csv` with `uri` and optional
      `image_id`. Relative URIs are relative to the manifest.
    - `.parquet` with a column `bytes` of encoded images (the id defaults to the row number, 9 digits), or else `uri` as
      in a manifest; optional `image_id`.
    - `.tar`, uncompressed: its images by suffix; the id is the member's name.

    Args:
        uri: local path or URI; local paths are made absolute.

    Raises:
        InputError: the pool is missing, of no known kind or empty, a row is damaged, or an image id is given twice.
    """
    file_system, path = storage.open_uri(uri)
    absolute_uri = path if isinstance(file_system, fs.LocalFileSystem) else uri.rstrip("/")
    kind = file_system.get_file_info(path).type
    if kind == fs.FileType.NotFound:
        raise InputError(f"{uri}: no such pool")
    if kind == fs.FileType.Directory:
        images = list(_of_folder(absolute_uri, path))
    else:
        images = list(_lister(absolute_uri)(absolute_uri))
    if not images:
        raise InputError(f"{uri}: the pool has no images (known suffixes: {', '.join(IMAGE_SUFFIXES)})")
    images.sort(key=lambda image: image.image_id)
    for previous, image in pairwise(images):
        if previous.image_id == image.image_id:
            raise InputError(f"{uri}: image id {image.image_id!r} is given twice")
    return images


def pool_shards(images: Sequence[PoolImage], shard_size: int) -> list[Shard]:
    """Cut the pool into consecutive shards of `shard_size` images; the last may be smaller."""
    return [
        Shard(shard_id, tuple(images[start : start + shard_size]))
        for shard_id, start in enumerate(range(0, len(images), shard_size))
    ]


def _lister(uri: str) -> Callable[[str], Iterator[PoolImage]]:
    listers = {".txt": _of_text, ".jsonl": _of_jsonl, ".csv": _of_csv, ".parquet": _of_parquet, ".tar": _of_tar}
    for suffix, lister in listers.items():
        if uri.endswith(suffix):
            return lister
    raise InputError(f"{uri}: a pool must be a folder or one of *{', *'.join(listers)}")


def _of_folder(uri: str, path: str) -> Iterator[PoolImage]:
    for info in storage.list_files(uri, recursive=True):
        relative = info.path[len(path.rstrip("/")) + 1 :]
        if any(part.startswith(".") for part in relative.split("/")):
            continue
        if relative.lower().endswith(IMAGE_SUFFIXES):
            yield PoolImage(relative, storage.join(uri, relative))
        elif relative.endswith((".tar", ".parquet")):
            packed_uri = storage.join(uri, relative)
            for image in _lister(packed_uri)(packed_uri):
                yield PoolImage(f"{relative}/{image.image_id}", image.uri)


def _of_text(uri: str) -> Iterator[PoolImage]:
    for line in _lines(uri):
        if line.strip():
            yield _from_row({"uri": line.strip()}, uri, where=uri)


def _of_jsonl(uri: str) -> Iterator[PoolImage]:
    for number, line in enumerate(_lines(uri), start=1):
        if not line.strip():
            continue
        where = f"{uri}: line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{where}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{where}: must be an object with uri, got {type(row).__name__}")
        yield _from_row(row, uri, where)


def _of_csv(uri: str) -> Iterator[PoolImage]:
    rows = csv.DictReader(io.StringIO("\n".join(_lines(uri))))
    if "uri" not in (rows.fieldnames or []):
        raise InputError(f"{uri}: the first line must name a column uri, got {rows.fieldnames}")
    for row in rows:
        yield _from_row(row, uri, where=f"{uri}: line {rows.line_num}")


def _of_parquet(uri: str) -> Iterator[PoolImage]:
    try:
        file_system, path = storage.open_uri(uri)
        with file_system.open_input_file(path) as file:
            parquet = pq.ParquetFile(file)
            names = parquet.schema_arrow.names
            has_bytes = BYTES_COLUMN in names
            if not has_bytes and "uri" not in names:
                raise InputError(f"{uri}: must have a column uri or {BYTES_COLUMN}, has {', '.join(names)}")
            columns = [name for name in ("image_id", "uri") if name in names and not (has_bytes and name == "uri")]
            num_rows = parquet.metadata.num_rows
            rows = parquet.read(columns=columns).to_pylist() if columns else [{} for _ in range(num_rows)]
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"{uri}: not readable as Parquet: {error}") from error
    for number, row in enumerate(rows):
        if has_bytes:
            yield PoolImage(_image_id(row, f"{number:09d}", f"{uri}: row {number}"), f"{uri}#{number}")
        else:
            yield _from_row(row, uri, where=f"{uri}: row {number}")


def _of_tar(uri: str) -> Iterator[PoolImage]:
    try:
        members = list(tar_members(uri))
    except tarfile.TarError as error:
        raise InputError(f"{uri}: not readable as an uncompressed tar: {error}") from error
    for member in members:
        if member.name.lower().endswith(IMAGE_SUFFIXES) and not posixpath.basename(member.name).startswith("."):
            yield PoolImage(member.name, f"{uri}#{member.name}")


def _lines(uri: str) -> list[str]:
    try:
        return storage.read_bytes(uri).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{uri}: not UTF-8 text: {error}") from error


def _from_row(row: dict[str, Any], manifest_uri: str, where: str) -> PoolImage:
    uri = row.get("uri")
    if not isinstance(uri, str) or not uri:
        raise InputError(f"{where}: uri must be a path or URI, got {uri!r}")
    image_id = _image_id(row, uri, where)
    if "://" in uri or posixpath.isabs(uri):
        return PoolImage(image_id, uri)
    return PoolImage(image_id, storage.join(posixpath.dirname(manifest_uri), uri))


def _image_id(row: dict[str, Any], default: str, where: str) -> str:
    image_id = row.get("image_id")
    if image_id is None or image_id == "":
        return default
    if not isinstance(image_id, int | str) or isinstance(image_id, bool):
        raise InputError(f"{where}: image_id must be a string or an integer, got {image_id!r}")
    return str(image_id)
