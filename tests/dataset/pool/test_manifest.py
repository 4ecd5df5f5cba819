"""Shards do not depend on the order of listing, and a growing pool only adds shards."""

import json
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs

from raylabel.dataset.pool import listing
from raylabel.dataset.pool import manifest as manifest_module
from raylabel.dataset.pool.image import PoolImage
from raylabel.dataset.pool.listing import iter_pool
from raylabel.dataset.pool.manifest import (
    ShardManifest,
    ShardReferences,
    grow_manifest,
    read_manifest,
    read_shard,
    write_manifest,
)
from raylabel.dataset.pool.sorting import sort_images
from raylabel.errors import InputError
from raylabel.files import file_systems, file_tree, reading


def images_of(numbers: Iterable[int]) -> list[PoolImage]:
    return [PoolImage(f"{n:04d}", f"/pool/{n}.png", "outside of the pool" if n % 7 == 0 else None) for n in numbers]


def shards_of(manifest: ShardManifest) -> list[list[PoolImage]]:
    references = ShardReferences(manifest, np.arange(manifest.num_shards))
    shards = [read_shard(one["part"], one["row_group"], one["shard_id"]) for one in references]
    assert [shard.shard_id for shard in shards] == list(range(manifest.num_shards))
    return [list(shard.images) for shard in shards]


def write(folder: Path, images: Iterable[PoolImage], shard_size: int = 8) -> ShardManifest:
    return write_manifest(str(folder), images, source="pool", shard_size=shard_size)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".parquet"}


@given(st.lists(st.text(), unique=True), st.integers(1, 7))
def test_sorted_runs_merge_to_what_sorting_in_memory_gives(ids: list[str], run_length: int) -> None:
    images = [PoolImage(image_id, str(number)) for number, image_id in enumerate(ids) if image_id.isprintable()]
    expected = sorted(images, key=lambda image: image.image_id)
    assert list(sort_images(images, run_length=run_length)) == expected


def test_many_batches_of_a_run_are_merged() -> None:
    images = images_of(np.random.default_rng(0).permutation(3000).tolist())
    assert list(sort_images(images, run_length=1000)) == images_of(range(3000))


def test_shards_are_the_same_in_any_order_of_listing(tmp_path: Path) -> None:
    first = write(tmp_path / "a", images_of(range(50)))
    second = write(tmp_path / "b", images_of(np.random.default_rng(0).permutation(50).tolist()))
    assert first.digest == second.digest
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert [len(shard) for shard in shards_of(first)] == [8] * 6 + [2]
    assert list(chain(*shards_of(first))) == images_of(range(50))
    assert (first.num_shards, first.num_images) == (7, 50)
    assert read_manifest(str(tmp_path / "a")) == first
    assert read_manifest(str(tmp_path / "c")) is None


def test_a_large_pool_has_many_parts(tmp_path: Path) -> None:
    manifest = write(tmp_path, images_of(range(600)), shard_size=1)
    assert [part.num_shards for part in manifest.parts] == [256, 256, 88]
    assert shards_of(manifest) == [[image] for image in images_of(range(600))]
    references = ShardReferences(manifest, np.array([1, 300, 599]))
    assert [one["row_group"] for one in references[1:]] == [44, 87]


def test_the_digest_changes_with_every_image(tmp_path: Path) -> None:
    digests = {
        write(tmp_path / str(number), images).digest
        for number, images in enumerate(
            [
                *(images_of(numbers) for numbers in (range(20), range(21), range(1, 21))),
                *([image] for image in (PoolImage("0", "a"), PoolImage("0", "b"), PoolImage("0", "a", "refused"))),
            ]
        )
    }
    assert len(digests) == 6


def test_new_images_get_new_shards_and_no_old_one_is_touched(tmp_path: Path) -> None:
    folder = tmp_path / "manifest"
    old = write(folder, images_of(range(0, 40, 2)))
    files = contents(folder)
    growth = grow_manifest(old, images_of(np.random.default_rng(0).permutation(30).tolist()))
    grown = growth.manifest
    assert (growth.num_new, growth.num_gone, growth.num_moved) == (15, 5, 0), "30, 32, ..., 38 are gone"
    assert grown.digest != old.digest
    assert read_manifest(str(folder)) == grown
    assert {name: content for name, content in contents(folder).items() if name in files} == files
    shards = shards_of(grown)
    assert shards[:3] == shards_of(old)
    assert shards[3:] == [images_of(range(1, 17, 2)), images_of(range(17, 30, 2))]

    again = grow_manifest(grown, images_of(range(45)))
    assert (again.num_new, again.num_gone) == (10, 0)
    assert [image.image_id for image in list(chain(*shards_of(again.manifest)))[35:]] == [
        f"{n:04d}" for n in [31, 33, 35, 37, 39, 40, 41, 42, 43, 44]
    ]
    assert len(again.manifest.generations) == 3


def test_nothing_new_changes_nothing(tmp_path: Path) -> None:
    manifest = write(tmp_path, images_of(range(20)))
    moved = [PoolImage(image.image_id, image.uri.replace("pool", "elsewhere")) for image in images_of(range(3))]
    growth = grow_manifest(manifest, moved)
    assert (growth.num_new, growth.num_gone, growth.num_moved) == (0, 17, 3)
    assert growth.manifest == manifest == read_manifest(str(tmp_path))


@pytest.mark.parametrize("grows", [False, True])
def test_an_id_that_is_given_twice_is_refused(grows: bool, tmp_path: Path) -> None:
    images = [*images_of(range(20)), PoolImage("0007", "elsewhere")]
    manifest = write(tmp_path, images_of(range(3)))
    with pytest.raises(InputError, match="pool: image id '0007' is given twice"):
        grow_manifest(manifest, images) if grows else write(tmp_path, images)
    assert read_manifest(str(tmp_path)) == (manifest if grows else None), "the manifest is written last"


def names_of_folder(root: Path, numbers: Iterable[int]) -> str:
    for n in numbers:
        path = root / "pool" / f"{n % 3}" / f"{n:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return str(root / "pool")


def names_of_jsonl(root: Path, numbers: Iterable[int]) -> str:
    with open(root / "pool.jsonl", "a") as file:
        file.writelines(json.dumps({"uri": f"{n}.png", "image_id": n}) + "\n" for n in numbers)
    return str(root / "pool.jsonl")


def names_of_prefix(root: Path, numbers: Iterable[int]) -> str:
    for n in numbers:
        path = root / "store" / "bucket" / "pool" / "deep" / f"{n}" / f"{n:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return "s3://bucket/pool/"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-in for `s3://`: a folder that, like a store, lists one level per request."""

    def open_uri(uri: str, **options: object) -> tuple[fs.FileSystem, str]:
        if uri.startswith("s3://"):
            return fs.SubTreeFileSystem(str(tmp_path / "store"), fs.LocalFileSystem()), uri.removeprefix("s3://")
        return file_systems.open_uri(uri, **options)

    for module in (listing, reading, file_tree):
        monkeypatch.setattr(module, "open_uri", open_uri)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("add", [names_of_folder, names_of_jsonl, names_of_prefix])
def test_pools_of_files_grow(add: object, tmp_path: Path) -> None:
    assert callable(add)
    uri = add(tmp_path, range(10, 30))
    manifest = write(tmp_path / "manifest", iter_pool(uri))
    before = shards_of(manifest)
    add(tmp_path, [3, 40])
    growth = grow_manifest(manifest, iter_pool(uri))
    assert (growth.num_new, growth.num_gone, growth.num_moved) == (2, 0, 0)
    after = shards_of(growth.manifest)
    assert after[: len(before)] == before
    assert sorted(image.uri.rsplit("/", 1)[-1].removesuffix(".png").zfill(3) for image in after[-1]) == ["003", "040"]


def test_the_digest_remembers_earlier_generations(tmp_path: Path) -> None:
    """The second generations are equal, the first ones are not."""
    added = images_of(range(100, 105))
    one, other = (
        grow_manifest(write(tmp_path / str(num), images_of(range(num))), [*images_of(range(num)), *added]).manifest
        for num in (3, 4)
    )
    assert shards_of(one)[-1] == shards_of(other)[-1] == added
    assert one.digest != other.digest


def test_a_part_is_full_at_the_first_of_its_two_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver holds a part in memory, so large shards make small parts."""
    monkeypatch.setattr(manifest_module, "_SHARDS_PER_PART", 4)
    monkeypatch.setattr(manifest_module, "_IMAGES_PER_PART", 10)
    small, large = (write(tmp_path / str(size), images_of(range(40)), shard_size=size).parts for size in (2, 8))
    assert [(part.num_shards, part.num_images) for part in small] == [(4, 8)] * 5
    assert [(part.num_shards, part.num_images) for part in large] == [(2, 16), (2, 16), (1, 8)]
