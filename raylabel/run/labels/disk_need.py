"""Disk space for labels, estimated before the labels are made."""

import posixpath
import shutil
from dataclasses import dataclass

import pyarrow.compute as pc
from pyarrow import fs

from raylabel.config import LabelConfig
from raylabel.errors import InputError
from raylabel.files.file_systems import open_uri
from raylabel.run.folder import RunFolder
from raylabel.run.labels.ledger import read_ledger
from raylabel.run.labels.shards import shard_sizes

BYTES_PER_INSTANCE = 430
"""Stored bytes per prediction of a real detector. The mask takes 270 of them (`docs/decisions.md`)."""

INSTANCES_PER_IMAGE = 37
"""Predictions per image of the same detector with scores from 0.05. `label.max_per_image` may be lower."""


@dataclass(frozen=True, kw_only=True)
class DiskNeed:
    """Disk space for the labels of pending images.

    Attributes:
        num_images: images to be labelled.
        bytes_per_image: estimated, or measured on the committed shards.
        free_bytes: free space of the disk. None on an object store.
    """

    num_images: int
    bytes_per_image: float
    free_bytes: int | None

    @property
    def num_bytes(self) -> float:
        """Estimated size of the pending labels in bytes."""
        return self.num_images * self.bytes_per_image

    def text(self) -> str:
        """Format both figures for people."""
        free = (
            "free space of an object store is not known"
            if self.free_bytes is None
            else f"{size_text(self.free_bytes)} free"
        )
        if not self.num_images:
            return f"no labels are pending, {free}"
        return f"labels take about {size_text(self.num_bytes)} ({size_text(self.bytes_per_image)} per image), {free}"


def disk_need(settings: LabelConfig, run: RunFolder, *, num_images: int, keeps_labels: bool = True) -> DiskNeed:
    """Estimate the space that the pending labels of a pool take, and read the free space.

    Args:
        settings: the config's `label` section.
        run: the run folder.
        num_images: images of the pool. Committed shards need no more space, and their size gives the bytes per image.
        keeps_labels: whether committed shards stay. If not, all of them are made again.
    """
    sizes = shard_sizes(run) if keeps_labels else {}
    # From the ledger, because the last shard of a pool, and of each part that it grew by, is not full.
    num_labelled = pc.sum(read_ledger(run, sizes)["num_images"]).as_py() if sizes else 0
    if num_labelled:
        bytes_per_image = sum(sizes.values()) / num_labelled
    else:
        bytes_per_image = float(BYTES_PER_INSTANCE * min(INSTANCES_PER_IMAGE, settings.max_per_image))
    file_system, _ = open_uri(run.uri)
    is_local = isinstance(file_system, fs.LocalFileSystem)
    return DiskNeed(
        num_images=max(0, num_images - num_labelled),
        bytes_per_image=bytes_per_image,
        free_bytes=shutil.disk_usage(nearest_folder(run.uri)).free if is_local else None,
    )


def check_disk(settings: LabelConfig, run: RunFolder, *, num_images: int, keeps_labels: bool = True) -> DiskNeed:
    """Check that the pending labels fit the run folder's disk. Arguments are the same as for `disk_need`.

    Raises:
        InputError: the labels need more space than the disk has.
    """
    need = disk_need(settings, run, num_images=num_images, keeps_labels=keeps_labels)
    if need.free_bytes is not None and need.num_bytes > need.free_bytes:
        raise InputError(
            f"{run.uri}: {need.text()}, for {need.num_images} images. Free some space, give an --out on a larger "
            "disk, raise label.score_threshold or lower label.max_per_image."
        )
    return need


def size_text(num_bytes: float) -> str:
    """Format a number of bytes for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.4g} TB"


def nearest_folder(uri: str) -> str:
    """Return the nearest existing folder on the way to a local file or folder. Other URIs are returned unchanged."""
    file_system, path = open_uri(uri)
    if not isinstance(file_system, fs.LocalFileSystem):
        return uri
    while file_system.get_file_info(path).type == fs.FileType.NotFound and path != "/":
        path = posixpath.dirname(path)
    return path
