"""The shard manifest: the listed pool, cut into fixed shards. It grows by new shards and never changes old ones.

The manifest is a folder of Parquet parts, whose row groups are the shards. `manifest.json` is written last and names
the valid parts. Each listing with new images adds a generation. Images are sorted by id within a generation, so that
its shards do not depend on the order of listing.
"""

import hashlib
import heapq
import io
import json
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import accumulate, islice
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raylabel.dataset.pool.image import PoolImage
from raylabel.dataset.pool.sorting import POOL_IMAGES, images_of, images_to_table, sort_images
from raylabel.errors import InputError
from raylabel.files.committing import commit_bytes
from raylabel.files.json_files import commit_json, read_json_object
from raylabel.files.json_text import checked_as
from raylabel.files.moving import copy_file, remove
from raylabel.files.paths import join
from raylabel.files.reading import exists
from raylabel.files.stored_file import StoredFile

MANIFEST = "manifest.json"

_SHARDS_PER_PART = 256
_IMAGES_PER_PART = 262_144
"""A part is full at the first of the two limits. They keep its footer small for workers, and its content for the
driver."""


@dataclass(frozen=True)
class Shard:
    """A fixed list of images: the unit of work, of retry and of commit.

    Attributes:
        shard_id: number from 0, counted over all generations.
        images: the shard's images, sorted by image id.
    """

    shard_id: int
    images: tuple[PoolImage, ...]


@dataclass(frozen=True, kw_only=True)
class ManifestPart:
    """A Parquet file of the manifest.

    Attributes:
        name: file name in the manifest's folder.
        num_shards: number of row groups.
        num_images: number of rows.
    """

    name: str
    num_shards: int
    num_images: int


@dataclass(frozen=True, kw_only=True)
class Generation:
    """The images that one listing added.

    Attributes:
        listed: time of the listing, UTC.
        parts: Parquet files in the order of their shards.
    """

    listed: str
    parts: tuple[ManifestPart, ...]


@dataclass(frozen=True, kw_only=True)
class ShardManifest:
    """The pool's images in shards.

    Attributes:
        folder: path or URI of the manifest's folder.
        source: the pool, as the config names it.
        shard_size: images per shard; the last shard of a generation may have fewer.
        digest: SHA-256 of all images and their shards.
        generations: additions of all listings, oldest first.
    """

    folder: str
    source: str
    shard_size: int
    digest: str
    generations: tuple[Generation, ...]

    @cached_property
    def parts(self) -> tuple[ManifestPart, ...]:
        """Parts of all generations, in the order of their shards."""
        return tuple(part for generation in self.generations for part in generation.parts)

    @cached_property
    def _first_shards(self) -> list[int]:
        return [0, *accumulate(part.num_shards for part in self.parts)]

    @property
    def num_shards(self) -> int:
        """Number of shards; shard ids are smaller."""
        return self._first_shards[-1]

    @property
    def num_images(self) -> int:
        """Number of images of the pool, including images that have disappeared since."""
        return sum(part.num_images for part in self.parts)

    def reference(self, shard_id: int) -> dict[str, Any]:
        """Return the place of a shard's images, as arguments of `read_shard`."""
        part = bisect_right(self._first_shards, shard_id) - 1
        uri = join(self.folder, self.parts[part].name)
        return {"shard_id": shard_id, "part": uri, "row_group": shard_id - self._first_shards[part]}


class ShardReferences(Sequence[dict[str, Any]]):
    """References of chosen shards, made on demand."""

    def __init__(self, manifest: ShardManifest, shard_ids: NDArray[np.int64]) -> None:
        self._manifest, self._shard_ids = manifest, shard_ids

    def __len__(self) -> int:
        return len(self._shard_ids)

    def __getitem__(self, position: Any) -> Any:
        if isinstance(position, slice):
            return ShardReferences(self._manifest, self._shard_ids[position])
        return self._manifest.reference(int(self._shard_ids[position]))


@dataclass(frozen=True, kw_only=True)
class Growth:
    """The result of listing a pool again.

    Attributes:
        manifest: the manifest, with a further generation if there are new images.
        num_new: number of images that no generation had.
        num_gone: number of images in the manifest that the pool no longer has.
        num_moved: number of images whose URI differs from the manifest's. The manifest keeps its URI.
    """

    manifest: ShardManifest
    num_new: int
    num_gone: int
    num_moved: int


def read_manifest(folder: str) -> ShardManifest | None:
    """Read the manifest in a folder. Returns None if no manifest was finished.

    Raises:
        InputError: the manifest is damaged.
    """
    uri = join(folder, MANIFEST)
    if not exists(uri):
        return None
    return checked_as(ShardManifest, read_json_object(uri) | {"folder": folder}, uri)


def write_manifest(folder: str, images: Iterable[PoolImage], *, source: str, shard_size: int) -> ShardManifest:
    """Write the manifest of a pool from its listing, which may have any order.

    Raises:
        InputError: an image id is given twice.
    """
    remove(folder)
    empty = ShardManifest(folder=folder, source=source, shard_size=shard_size, digest="", generations=())
    return _add_generation(empty, _without_repeats(sort_images(images), source))


def copy_manifest(manifest: ShardManifest, folder: str) -> ShardManifest:
    """Copy a manifest into another folder. A copy that was interrupted is no manifest."""
    for part in manifest.parts:
        copy_file(join(manifest.folder, part.name), join(folder, part.name))
    copied = replace(manifest, folder=folder)
    _commit(copied)
    return copied


def grow_manifest(manifest: ShardManifest, images: Iterable[PoolImage]) -> Growth:
    """Compare a manifest with a new listing, and add the new images. Existing shards do not change.

    Raises:
        InputError: an image id is given twice.
    """
    counts = {"num_new": 0, "num_gone": 0, "num_moved": 0}
    listed = _without_repeats(sort_images(images), manifest.source)

    def new_images() -> Iterator[PoolImage]:
        known = manifest_images(manifest)
        old = next(known, None)
        for image in listed:
            while old is not None and old.image_id < image.image_id:
                counts["num_gone"] += 1
                old = next(known, None)
            if old is not None and old.image_id == image.image_id:
                counts["num_moved"] += old.uri != image.uri
                old = next(known, None)
            else:
                counts["num_new"] += 1
                yield image
        if old is not None:
            counts["num_gone"] += 1 + sum(1 for _ in known)

    return Growth(manifest=_add_generation(manifest, new_images()), **counts)


def read_shard(part: str, row_group: int, shard_id: int) -> Shard:
    """Read a shard's images. The arguments come from `ShardManifest.reference`."""
    with StoredFile(part) as file:
        return Shard(shard_id, tuple(images_of(pq.ParquetFile(file).read_row_group(row_group))))


def _add_generation(manifest: ShardManifest, images: Iterator[PoolImage]) -> ShardManifest:
    """Write sorted images as new parts, then the manifest. Without images the manifest stays the same."""
    number, digest = len(manifest.generations), hashlib.sha256(manifest.digest.encode())
    parts: list[ManifestPart] = []
    while part := _write_part(manifest, f"part-{number:04d}-{len(parts):06d}.parquet", images, digest):
        parts.append(part)
    if not parts:
        return manifest
    listed = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    grown = replace(
        manifest,
        digest=digest.hexdigest(),
        generations=(*manifest.generations, Generation(listed=listed, parts=tuple(parts))),
    )
    _commit(grown)
    return grown


def _commit(manifest: ShardManifest) -> None:
    content = asdict(manifest)
    del content["folder"]
    commit_json(join(manifest.folder, MANIFEST), content)


def _write_part(manifest: ShardManifest, name: str, images: Iterator[PoolImage], digest: Any) -> ManifestPart | None:
    buffer, num_shards, num_images = io.BytesIO(), 0, 0
    # No dictionaries and statistics, because nobody searches these columns and the footer stays small.
    with pq.ParquetWriter(
        buffer, POOL_IMAGES, compression="zstd", use_dictionary=False, write_statistics=False
    ) as writer:
        while num_shards < _SHARDS_PER_PART and num_images < _IMAGES_PER_PART:
            shard = images_to_table(islice(images, manifest.shard_size))
            if not shard.num_rows:
                break
            writer.write_table(shard, row_group_size=shard.num_rows)
            digest.update(json.dumps([column.to_pylist() for column in shard.columns]).encode())
            num_shards, num_images = num_shards + 1, num_images + shard.num_rows
    if not num_shards:
        return None
    commit_bytes(join(manifest.folder, name), buffer.getvalue())
    return ManifestPart(name=name, num_shards=num_shards, num_images=num_images)


def manifest_images(manifest: ShardManifest) -> Iterator[PoolImage]:
    """Yield the images of all generations in order of their ids."""
    generations = [_generation_images(manifest, generation) for generation in manifest.generations]
    return heapq.merge(*generations, key=lambda image: image.image_id)


def _generation_images(manifest: ShardManifest, generation: Generation) -> Iterator[PoolImage]:
    for part in generation.parts:
        with StoredFile(join(manifest.folder, part.name)) as file:
            for batch in pq.ParquetFile(file).iter_batches(4096):
                yield from images_of(batch)


def _without_repeats(images: Iterator[PoolImage], source: str) -> Iterator[PoolImage]:
    previous = None
    for image in images:
        if image.image_id == previous:
            raise InputError(f"{source}: image id {image.image_id!r} is given twice")
        previous = image.image_id
        yield image
