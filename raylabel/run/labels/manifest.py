"""The run's shard manifest, labels/pool/: when the pool is listed, and when the stored manifest is used.

`raylabel run` lists the pool before it spends anything. The listing waits in listing/ until `label` takes it over. Runs
inside a run, such as further rounds, take the listing of the outermost run.
"""

import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylabel.dataset.pool.image import PoolImage
from raylabel.dataset.pool.left_out import LeftOut
from raylabel.dataset.pool.manifest import (
    ShardManifest,
    copy_manifest,
    grow_manifest,
    manifest_images,
    read_manifest,
    write_manifest,
)
from raylabel.dataset.pool.search import PoolSearch
from raylabel.dataset.pool.truth import TruthMatch
from raylabel.errors import InputError
from raylabel.files.digests import digest
from raylabel.files.json_files import commit_json, read_json_object
from raylabel.files.moving import remove
from raylabel.files.reading import exists
from raylabel.run.data import RunData
from raylabel.run.folder import RunFolder
from raylabel.run.labels.shards import LABELS_FOLDER, committed_shards
from raylabel.run.lease import hold_lease

LISTING = "listing"
"""Folder of the run for a listing that no label stage has taken over yet."""


def manifest_folder(run: RunFolder) -> str:
    """Return the manifest's folder. It lies beside the labels, because both are set aside together."""
    return run.path(LABELS_FOLDER, "pool")


def ensure_manifest(run: RunFolder, data: RunData, *, shard_size: int) -> ShardManifest:
    """Return the manifest that an interrupted run left, else that of the outermost run's listing, else list the pool.

    Raises:
        InputError: the pool can't be listed, or the manifest of the committed shards is lost.
    """
    manifest = read_manifest(manifest_folder(run))
    if manifest is not None:
        return manifest
    if committed_shards(run):
        raise InputError(
            f"{manifest_folder(run)}: the shard manifest of the committed shards is lost. Move the shards away."
        )
    listed = _listed(run, data, shard_size)
    if listed is None:
        return _list_pool(manifest_folder(run), data, shard_size, title=run.title("label"))
    manifest = copy_manifest(listed, manifest_folder(run))
    if run == run.outermost:
        remove(run.path(LISTING))
    return manifest


def pool_images(run: RunFolder, data: RunData, *, shard_size: int) -> Iterable[PoolImage]:
    """Return the images of the pool as the run has listed them. If it has not, list the pool.

    Raises:
        InputError: the pool can't be listed.
    """
    listed = _listed(run, data, shard_size)
    return data.list_pool() if listed is None else manifest_images(listed)


def _listed(run: RunFolder, data: RunData, shard_size: int) -> ShardManifest | None:
    """Return the pool as the outermost run has listed it: for its labels, else before them. None if it has not."""
    run = run.outermost
    manifest = read_manifest(manifest_folder(run))
    if manifest is None or (manifest.source, manifest.shard_size) != (data.pool_source, shard_size):
        manifest = read_manifest(_listing_folder(run, data, shard_size))
    return manifest


def _list_pool(
    folder: str,
    data: RunData,
    shard_size: int,
    *,
    title: str,
    left_out: LeftOut | None = None,
    truth: TruthMatch | None = None,
    search: PoolSearch | None = None,
) -> ShardManifest:
    """List the pool into a folder. `truth` and `search` see every image."""
    print(f"{title}: listing the pool", flush=True)
    left_out = LeftOut() if left_out is None else left_out
    images = _shown(data.list_pool(left_out), truth, search)
    manifest = write_manifest(folder, images, source=data.pool_source, shard_size=shard_size)
    others = f"; {left_out.text()}" if left_out else ""
    print(f"{title}: the pool has {manifest.num_images} images in {manifest.num_shards} shards{others}", flush=True)
    return manifest


def _listing_folder(run: RunFolder, data: RunData, shard_size: int) -> str:
    """Return the folder of a listing that is kept for `label`. Other settings, or another truth, make another one."""
    return run.path(LISTING, digest({"shard_size": shard_size, **data.listing_inputs})[:16])


def has_grown(run: RunFolder, data: RunData, artifact: dict[str, Any]) -> bool:
    """Whether the pool has images that a finished label stage lacks. Adds them to the manifest.

    The outermost run lists the pool for it. A run inside compares its manifest with the outermost run's.

    Raises:
        InputError: the pool can't be listed.
    """
    manifest = read_manifest(manifest_folder(run))
    if manifest is None or manifest.digest != artifact["pool_digest"]:
        return True
    left_out, title = LeftOut(), run.title("label")
    listed = None if run == run.outermost else _listed(run, data, manifest.shard_size)
    if listed is not None and listed.digest == manifest.digest:
        return False
    images = data.list_pool(left_out) if listed is None else manifest_images(listed)
    growth = grow_manifest(manifest, images)
    if growth.num_gone:
        print(
            f"{title}: {growth.num_gone} labelled images are no longer in the pool; their labels stay",
            flush=True,
        )
    if growth.num_moved:
        print(
            f"{title}: {growth.num_moved} labelled images have another URI now; their labels stay",
            flush=True,
        )
    if growth.num_new:
        num_shards = growth.manifest.num_shards - manifest.num_shards
        others = f"; {left_out.text()}" if left_out else ""
        print(f"{title}: the pool grew by {growth.num_new} images, in {num_shards} new shards{others}", flush=True)
    return growth.num_new > 0


def count_pool(
    run: RunFolder,
    data: RunData,
    *,
    shard_size: int,
    keep: bool = False,
    left_out: LeftOut | None = None,
    truth: TruthMatch | None = None,
    search: PoolSearch | None = None,
) -> tuple[int, int]:
    """Count images and shards: those of the run's manifest or kept listing if it has one, else those of the pool now.

    If the pool is listed, `left_out` counts its other files. `truth` and `search` see every image.

    Args:
        run: the run folder.
        data: the run's data.
        shard_size: images per shard.
        keep: whether a listing is kept in the run for `label`, which then does not list the pool again.
        left_out: see above.
        truth: see above.
        search: see above.

    Raises:
        InputError: the pool can't be listed, or it would be kept and another driver is at work on the run.
    """
    manifest = _listed(run, data, shard_size)
    if manifest is not None:
        if truth or search:
            for _ in _shown(manifest_images(manifest), truth, search):
                pass
        return manifest.num_images, manifest.num_shards
    if keep:
        with hold_lease(run):
            remove(run.path(LISTING))
            manifest = _list_pool(
                _listing_folder(run, data, shard_size),
                data,
                shard_size,
                title="check",
                left_out=left_out,
                truth=truth,
                search=search,
            )
        return manifest.num_images, manifest.num_shards
    num_images = sum(1 for _ in _shown(data.list_pool(left_out), truth, search))
    return num_images, -(-num_images // shard_size)


def _shown(images: Iterable[PoolImage], truth: TruthMatch | None, search: PoolSearch | None) -> Iterator[PoolImage]:
    """Yield images after `truth` and `search` have seen them."""
    for image in images:
        if truth:
            truth.see_image(image)
        if search:
            search.see(image)
        yield image


def missing_shards(run: RunFolder, manifest: ShardManifest) -> NDArray[np.int64]:
    """Return the ids of the manifest's shards that are not committed yet, in order."""
    committed = committed_shards(run)
    return np.setdiff1d(np.arange(manifest.num_shards), np.fromiter(committed, np.int64, len(committed)))


def commit_plan(run: RunFolder, manifest: ShardManifest, *, fingerprint: str) -> None:
    """Write labels/plan.json: how many shards and images the stage labels in all, and when it started."""
    counts = {"num_shards": manifest.num_shards, "num_images": manifest.num_images}
    commit_json(_plan_uri(run), {**counts, "fingerprint": fingerprint, "started": time.time()})


def load_plan(run: RunFolder) -> dict[str, Any] | None:
    """Read labels/plan.json. None if labelling has not started."""
    uri = _plan_uri(run)
    return read_json_object(uri) if exists(uri) else None


def _plan_uri(run: RunFolder) -> str:
    return run.path(LABELS_FOLDER, "plan.json")
