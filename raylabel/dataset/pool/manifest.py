"""The shard manifest: the pool as it was listed, cut into fixed shards; it grows by new shards and changes no old one.

A folder of Parquet parts whose row groups are the shards, and `manifest.json`, which is written last and says which
parts count. Each listing that found new images is a generation; inside of one, images are sorted by id, so that its
shards do not depend on the order of listing.
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
from raylabel.files import storage
from raylabel.files.stored_file import StoredFile

MANIFEST = "manifest.json"

_SHARDS_A_PART = 256
_IMAGES_A_PART = 262_144
"""A part is full at the first of both: its footer stays small for workers, its content for the driver."""


@dataclass(frozen=True)
class Shard:
    """A fixed list of images: the unit of work, of retry and of commit.

    Attributes:
        shard_id: from 0, over all generations.
        images: sorted by image id.
    """

    shard_id: int
    images: tuple[PoolImage, ...]


@dataclass(frozen=True, kw_only=True)
class ManifestPart:
    """A Parquet file of the manifest.

    Attributes:
        name: of the file in the manifest's folder.
        num_shards: its row groups.
        num_images: its rows.
    """

    name: str
    num_shards: int
    num_images: int


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What one listing added.

    Attributes:
        listed: when, UTC.
        parts: in the order of their shards.
    """

    listed: str
    parts: tuple[ManifestPart, ...]


@dataclass(frozen=True, kw_only=True)
class ShardManifest:
    """The pool's images in shards.

    Attributes:
        folder: path or URI of the manifest's folder.
        source: the pool, as the config names it.
        shard_size: images a shard; the last of each generation may have fewer.
        digest: of all images and their shards.
        generations: from the first listing on.
    """

    folder: str
    source: str
    shard_size: int
    digest: str
    generations: tuple[Generation, ...]

    @cached_property
    def parts(self) -> tuple[ManifestPart, ...]:
        """Of all generations, in the order of their shards."""
        return tuple(part for generation in self.generations for part in generation.parts)

    @cached_property
    def _first_shards(self) -> list[int]:
        return [0, *accumulate(part.num_shards for part in self.parts)]

    @property
    def num_shards(self) -> int:
        """Shard ids are below it."""
        return self._first_shards[-1]

    @property
    def num_images(self) -> int:
        """Images of the pool, those that are gone since included."""
        return sum(part.num_images for part in self.parts)

    def reference(self, shard_id: int) -> dict[str, Any]:
        """Where a shard's images are, for `read_shard`."""
        part = bisect_right(self._first_shards, shard_id) - 1
        uri = storage.join(self.folder, self.parts[part].name)
        return {"shard_id": shard_id, "part": uri, "row_group": shard_id - self._first_shards[part]}


class ShardReferences(Sequence[dict[str, Any]]):
    """References of chosen shards, made as they are asked for."""

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
    """What listing a pool again found.

    Attributes:
        manifest: with the new images in a new generation, if there are any.
        num_new: images that no generation had.
        num_gone: images that are in the manifest, but no more in the pool.
        num_moved: images whose URI is not the one in the manifest, which stays.
    """

    manifest: ShardManifest
    num_new: int
    num_gone: int
    num_moved: int


def read_manifest(folder: str) -> ShardManifest | None:
    """The manifest in a folder; None where none was finished."""
    uri = storage.join(folder, MANIFEST)
    if not storage.exists(uri):
        return None
    content = storage.read_json(uri)
    generations = [
        Generation(listed=one["listed"], parts=tuple(ManifestPart(**part) for part in one["parts"]))
        for one in content.pop("generations")
    ]
    return ShardManifest(folder=folder, generations=tuple(generations), **content)


def write_manifest(folder: str, images: Iterable[PoolImage], *, source: str, shard_size: int) -> ShardManifest:
    """Make the manifest of a pool from its listing, in any order.

    Raises:
        InputError: an image id is given twice.
    """
    storage.remove(folder)
    empty = ShardManifest(folder=folder, source=source, shard_size=shard_size, digest="", generations=())
    return _add_generation(empty, _without_repeats(sort_images(images), source))


def grow_manifest(manifest: ShardManifest, images: Iterable[PoolImage]) -> Growth:
    """Compare a manifest with a new listing, and add what is new. No shard that it had is changed.

    Raises:
        InputError: an image id is given twice.
    """
    counts = {"num_new": 0, "num_gone": 0, "num_moved": 0}
    listed = _without_repeats(sort_images(images), manifest.source)

    def new_images() -> Iterator[PoolImage]:
        known = _manifest_images(manifest)
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
    """A shard's images; the arguments are those of a `ShardManifest.reference`."""
    with StoredFile(part) as file:
        return Shard(shard_id, tuple(images_of(pq.ParquetFile(file).read_row_group(row_group))))


def _add_generation(manifest: ShardManifest, images: Iterator[PoolImage]) -> ShardManifest:
    """Write sorted images as new parts, then the manifest; as it is where there are none."""
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
    content = asdict(grown)
    del content["folder"]
    storage.commit_json(storage.join(manifest.folder, MANIFEST), content)
    return grown


def _write_part(manifest: ShardManifest, name: str, images: Iterator[PoolImage], digest: Any) -> ManifestPart | None:
    buffer, num_shards, num_images = io.BytesIO(), 0, 0
    # Nothing is looked for in these columns: without dictionaries and statistics the footer is small.
    with pq.ParquetWriter(
        buffer, POOL_IMAGES, compression="zstd", use_dictionary=False, write_statistics=False
    ) as writer:
        while num_shards < _SHARDS_A_PART and num_images < _IMAGES_A_PART:
            shard = images_to_table(islice(images, manifest.shard_size))
            if not shard.num_rows:
                break
            writer.write_table(shard, row_group_size=shard.num_rows)
            digest.update(json.dumps([column.to_pylist() for column in shard.columns]).encode())
            num_shards, num_images = num_shards + 1, num_images + shard.num_rows
    if not num_shards:
        return None
    storage.commit_bytes(storage.join(manifest.folder, name), buffer.getvalue())
    return ManifestPart(name=name, num_shards=num_shards, num_images=num_images)


def _manifest_images(manifest: ShardManifest) -> Iterator[PoolImage]:
    """Images of all generations in order of their ids."""
    generations = [_generation_images(manifest, generation) for generation in manifest.generations]
    return heapq.merge(*generations, key=lambda image: image.image_id)


def _generation_images(manifest: ShardManifest, generation: Generation) -> Iterator[PoolImage]:
    for part in generation.parts:
        with StoredFile(storage.join(manifest.folder, part.name)) as file:
            for batch in pq.ParquetFile(file).iter_batches(4096):
                yield from images_of(batch)


def _without_repeats(images: Iterator[PoolImage], source: str) -> Iterator[PoolImage]:
    previous = None
    for image in images:
        if image.image_id == previous:
            raise InputError(f"{source}: image id {image.image_id!r} is given twice")
        previous = image.image_id
        yield image
