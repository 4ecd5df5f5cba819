"""Disk space for labels: estimated before the first shard, measured after it, checked on local disks only."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from raylabel.config import Config
from raylabel.errors import InputError
from raylabel.files.committing import commit_bytes
from raylabel.files.tables import commit_table
from raylabel.run.folder import RunFolder
from raylabel.run.labels.disk_need import (
    BYTES_PER_INSTANCE,
    INSTANCES_PER_IMAGE,
    DiskNeed,
    check_disk,
    disk_need,
    nearest_folder,
)
from raylabel.run.labels.shards import shard_uri
from raylabel.schema import SHARDS

SetFree = Callable[[int], None]


@pytest.fixture
def set_free(monkeypatch: pytest.MonkeyPatch) -> SetFree:
    """Return a function that sets the free bytes of every disk."""

    def set_them(num_bytes: int) -> None:
        usage = shutil.disk_usage("/")
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=num_bytes))

    return set_them


def ledger(run: RunFolder, num_images: Sequence[int]) -> None:
    """Write the ledger of committed shards with these numbers of images."""
    rows = pa.Table.from_pylist(
        [{"shard_id": shard_id, "num_images": num} for shard_id, num in enumerate(num_images)], schema=SHARDS
    )
    commit_table(run.path("labels", "shards.parquet"), rows)


def test_estimate_before_the_first_shard(config: Config, tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path / "runs" / "new"))
    need = disk_need(config.label, run, num_images=1000)
    assert need.num_bytes == 1000 * BYTES_PER_INSTANCE * INSTANCES_PER_IMAGE
    assert need.free_bytes == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.2)
    few = replace(config, label=replace(config.label, max_per_image=10))
    assert disk_need(few.label, run, num_images=1000).num_bytes == 1000 * BYTES_PER_INSTANCE * 10


def test_committed_shards_tell_what_the_others_take(config: Config, tmp_path: Path, set_free: SetFree) -> None:
    run = RunFolder(str(tmp_path))
    for shard_id, size in enumerate((800, 2400)):
        commit_bytes(shard_uri(run, shard_id), b"x" * size)
    ledger(run, [8, 8])
    need = disk_need(config.label, run, num_images=40)
    assert (need.num_images, need.bytes_per_image) == (24, 200)
    set_free(4800)
    check_disk(config.label, run, num_images=40)
    set_free(4799)
    with pytest.raises(
        InputError, match=r"labels take about 4.8 kB \(200 bytes per image\), 4.8 kB free, for 24 images"
    ):
        check_disk(config.label, run, num_images=40)
    check_disk(config.label, run, num_images=16)
    again = disk_need(config.label, run, num_images=16, keeps_labels=False)
    assert again.num_bytes == 16 * BYTES_PER_INSTANCE * INSTANCES_PER_IMAGE
    with pytest.raises(InputError, match="for 16 images"):
        check_disk(config.label, run, num_images=16, keeps_labels=False)


def test_shards_that_are_not_full_count_as_they_are(config: Config, tmp_path: Path) -> None:
    """Three shards of one image in a pool of 20: 17 images are to be labelled."""
    run = RunFolder(str(tmp_path))
    for shard_id in range(3):
        commit_bytes(shard_uri(run, shard_id), b"x" * 500)
    ledger(run, [1, 1, 1])
    need = disk_need(config.label, run, num_images=20)
    assert (need.num_images, need.bytes_per_image) == (17, 500)
    assert need.text().startswith("labels take about 8.5 kB (500 bytes per image)")


def test_an_object_store_is_not_asked(config: Config, set_free: SetFree) -> None:
    need = DiskNeed(num_images=10, bytes_per_image=2e9, free_bytes=None)
    assert need.text() == "labels take about 20 GB (2 GB per image), free space of an object store is not known"


def test_nearest_folder_is_one_that_exists(tmp_path: Path) -> None:
    assert nearest_folder(str(tmp_path / "a" / "b")) == nearest_folder(str(tmp_path)) == str(tmp_path)
