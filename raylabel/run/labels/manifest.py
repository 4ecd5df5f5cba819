"""The run's shard manifest, labels/pool/: when the pool is listed, and when the stored manifest is used."""

import time
from typing import Any

from raylabel.dataset.pool.image import PoolImage
from raylabel.dataset.pool.left_out import LeftOut
from raylabel.dataset.pool.manifest import (
    ShardManifest,
    grow_manifest,
    manifest_images,
    read_manifest,
    write_manifest,
)
from raylabel.dataset.pool.search import PoolSearch
from raylabel.dataset.pool.truth import TruthMatch
from raylabel.errors import InputError
from raylabel.files.storage import commit_json, exists, read_json_object
from raylabel.run.data import RunData
from raylabel.run.folder import RunFolder
from raylabel.run.labels.shards import LABELS_FOLDER, committed_shards


def manifest_folder(run: RunFolder) -> str:
    """Return the manifest's folder. It lies beside the labels, because both are set aside together."""
    return run.path(LABELS_FOLDER, "pool")


def ensure_manifest(run: RunFolder, data: RunData, *, shard_size: int) -> ShardManifest:
    """Return the manifest that an interrupted run left, else list the pool and write one.

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
    print(f"{run.title('label')}: listing the pool", flush=True)
    left_out = LeftOut()
    images = data.list_pool(left_out)
    manifest = write_manifest(manifest_folder(run), images, source=data.pool_source, shard_size=shard_size)
    if left_out:
        print(f"{run.title('label')}: {manifest.num_images} images; {left_out.text()}", flush=True)
    return manifest


def has_grown(run: RunFolder, data: RunData, artifact: dict[str, Any]) -> bool:
    """Whether the pool has images that a finished label stage lacks. Lists the pool and adds them to the manifest.

    Raises:
        InputError: the pool can't be listed.
    """
    manifest = read_manifest(manifest_folder(run))
    if manifest is None or manifest.digest != artifact["pool_digest"]:
        return True
    left_out, title = LeftOut(), run.title("label")
    growth = grow_manifest(manifest, data.list_pool(left_out))
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
    left_out: LeftOut | None = None,
    truth: TruthMatch | None = None,
    search: PoolSearch | None = None,
) -> tuple[int, int]:
    """Count images and shards: those of the run's manifest if it has one, else those of the pool now.

    If the pool is listed, `left_out` counts its other files. `truth` and `search` see every image.

    Raises:
        InputError: the pool can't be listed.
    """
    manifest = read_manifest(manifest_folder(run))
    if manifest is not None and (manifest.source, manifest.shard_size) == (data.pool_source, shard_size):
        for image in manifest_images(manifest) if truth or search else ():
            _show(image, truth, search)
        return manifest.num_images, manifest.num_shards
    num_images = 0
    for image in data.list_pool(left_out):
        num_images += 1
        _show(image, truth, search)
    return num_images, -(-num_images // shard_size)


def _show(image: PoolImage, truth: TruthMatch | None, search: PoolSearch | None) -> None:
    if truth:
        truth.see_image(image)
    if search:
        search.see(image)


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
