"""Space that labels take, estimated before they are made."""

import posixpath
import shutil
from dataclasses import dataclass

from pyarrow import fs

from raylabel.config import LabelConfig
from raylabel.errors import InputError
from raylabel.files.storage import open_uri
from raylabel.run.folder import RunFolder
from raylabel.run.labels.shards import shard_files

BYTES_PER_INSTANCE = 430
"""Stored size of a prediction of a real detector: 270 of them its mask's (`docs/decisions.md`)."""

INSTANCES_PER_IMAGE = 37
"""Predictions an image of the same detector, with scores from .05; `label.max_per_image` may be lower."""


@dataclass(frozen=True, kw_only=True)
class DiskNeed:
    """Space for the labels that are to be made.

    Attributes:
        num_images: that are to be labelled.
        bytes_per_image: estimated, or measured on the shards that are committed.
        free_bytes: None on an object store, which is not asked.
    """

    num_images: int
    bytes_per_image: float
    free_bytes: int | None

    @property
    def num_bytes(self) -> float:
        """Estimated size of the labels to be made."""
        return self.num_images * self.bytes_per_image

    def text(self) -> str:
        """Both figures, for people."""
        free = (
            "free space of an object store is not known"
            if self.free_bytes is None
            else f"{_size(self.free_bytes)} free"
        )
        if not self.num_images:
            return f"no labels are to be made, {free}"
        return f"labels take about {_size(self.num_bytes)} ({_size(self.bytes_per_image)} an image), {free}"


def disk_need(settings: LabelConfig, run: RunFolder, *, num_images: int, keeps_labels: bool = True) -> DiskNeed:
    """Space that the labels of a pool still take, and what there is.

    Args:
        num_images: of the pool; those of committed shards need nothing more, and tell how much the others will.
        keeps_labels: whether committed shards stay, and are not set aside to be made again.
    """
    size = settings.shard_size
    shards = shard_files(run) if keeps_labels else []
    if shards:
        bytes_per_image = sum(info.size for info in shards) / (len(shards) * size)
    else:
        bytes_per_image = float(BYTES_PER_INSTANCE * min(INSTANCES_PER_IMAGE, settings.max_per_image))
    file_system, _ = open_uri(run.uri)
    is_local = isinstance(file_system, fs.LocalFileSystem)
    return DiskNeed(
        num_images=max(0, num_images - len(shards) * size),
        bytes_per_image=bytes_per_image,
        free_bytes=shutil.disk_usage(nearest_folder(run.uri)).free if is_local else None,
    )


def check_disk(settings: LabelConfig, run: RunFolder, *, num_images: int, keeps_labels: bool = True) -> DiskNeed:
    """The labels that are to be made must fit the run folder's disk; arguments as of `disk_need`.

    Raises:
        InputError: they don't.
    """
    need = disk_need(settings, run, num_images=num_images, keeps_labels=keeps_labels)
    if need.free_bytes is not None and need.num_bytes > need.free_bytes:
        raise InputError(
            f"{run.uri}: {need.text()}, for {need.num_images} images; free some, give an --out on a larger disk, or "
            "store less with a higher label.score_threshold or a lower label.max_per_image"
        )
    return need


def _size(num_bytes: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.4g} TB"


def nearest_folder(uri: str) -> str:
    """Where a local file or folder is or would be made: the nearest folder that exists. Other URIs stay."""
    file_system, path = open_uri(uri)
    if not isinstance(file_system, fs.LocalFileSystem):
        return uri
    while file_system.get_file_info(path).type == fs.FileType.NotFound and path != "/":
        path = posixpath.dirname(path)
    return path
