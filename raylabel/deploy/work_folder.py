"""The folder beside the output of `predict`: a small run, in which the images are labelled as `label` does it."""

from dataclasses import replace

from raylabel.calibration import corrector_from_json
from raylabel.calibration.correctors.file import commit_corrector
from raylabel.config import Config, config_dict
from raylabel.dataset.pool.access import Access
from raylabel.dataset.pool.listing import iter_pool
from raylabel.dataset.pool.manifest import ShardManifest, read_manifest, write_manifest
from raylabel.deploy.model_folder import ModelFolder
from raylabel.files.digests import digest, file_digest
from raylabel.files.json_files import commit_json, read_json_object
from raylabel.files.moving import remove
from raylabel.files.paths import join
from raylabel.files.reading import exists
from raylabel.progress import Counts, Progress
from raylabel.run.calibration import corrector_uri, load_corrector
from raylabel.run.classes import classes_uri, write_classes
from raylabel.run.folder import RunFolder
from raylabel.run.labels.in_validation import compare_with_nothing
from raylabel.run.labels.manifest import commit_plan, manifest_folder, missing_shards
from raylabel.run.labels.shards import LABELS_FOLDER, committed_shards
from raylabel.run.models import MODEL_FILES

HERE_AT_MOST = 256
"""Largest number of images that are predicted in this process unless Ray is asked for."""


def label_images(work: RunFolder, model: ModelFolder, images: str, *, driver_id: str, use_ray: bool) -> None:
    """Label all images of a pool, shard by shard. What an interrupted call has left is continued.

    Args:
        work: the folder, whose lease is held.
        model: the model.
        images: the pool; an absolute path or a URI.
        driver_id: who holds the lease.
        use_ray: whether to use Ray for few images too.

    Raises:
        InputError: the pool can't be listed, the cluster is too small, or the model fails at every image on Ray.
    """
    manifest = _prepare(work, model, images)
    # Every image may be unreadable, because the command lists them.
    config = replace(model.config, label=replace(model.config.label, max_bad_fraction=1.0, num_workers="auto"))
    if use_ray or manifest.num_images > HERE_AT_MOST:
        _label_on_ray(config, work, manifest, model.uri, driver_id)
    else:
        _label_here(config, work, manifest, model.uri, driver_id)


def _prepare(work: RunFolder, model: ModelFolder, images: str) -> ShardManifest:
    """Make the folder ready to label, or take over what an interrupted call has left. Other leftovers are removed."""
    corrector = model.corrector or corrector_from_json({"kind": "none"})
    label = model.config.label
    made_of = {
        "model": [file_digest(join(model.uri, name)) for name in MODEL_FILES],
        "corrector": corrector.to_json(),
        "images": images,
        "label": {name: getattr(label, name) for name in ("shard_size", "score_threshold", "max_per_image", "top_k")}
        | label.later_inputs,
        "data": [model.config.data.max_image_pixels, model.config.data.tar_samples],
    }
    started = work.path(LABELS_FOLDER, "started.json")
    if exists(started) and read_json_object(started)["fingerprint"] == digest(made_of):
        manifest = read_manifest(manifest_folder(work))
        if manifest is not None:
            num_done = len(committed_shards(work))
            print(f"predict: continuing, {num_done} of {manifest.num_shards} shards are done", flush=True)
            return manifest
    remove(work.path(LABELS_FOLDER))
    write_classes(classes_uri(work), model.classes)
    commit_corrector(corrector_uri(work), corrector, model.classes.category_ids)
    compare_with_nothing(work)
    data = model.config.data
    access = Access(schemes=data.allowed_schemes, roots=data.allowed_roots)
    listed = iter_pool(images, access, tar_samples=data.tar_samples)
    manifest = write_manifest(manifest_folder(work), listed, source=images, shard_size=label.shard_size)
    commit_plan(work, manifest, fingerprint=digest(made_of))
    commit_json(started, {"fingerprint": digest(made_of), "inputs": made_of})
    return manifest


def _fingerprint(work: RunFolder) -> str:
    return str(read_json_object(work.path(LABELS_FOLDER, "started.json"))["fingerprint"])


def _label_on_ray(config: Config, work: RunFolder, manifest: ShardManifest, model_uri: str, driver_id: str) -> None:
    from raylabel.cluster.capacity import live_nodes
    from raylabel.cluster.session import connect
    from raylabel.stages.label_shards import label_pending_shards

    connect()
    has_gpus = any(node.get("GPU", 0.0) for node in live_nodes())
    label = replace(config.label, num_gpus=(config.label.num_gpus or 1.0) if has_gpus else 0.0)
    label_pending_shards(
        replace(config, label=label),
        work,
        manifest,
        model_uri=model_uri,
        fingerprint=_fingerprint(work),
        driver_id=driver_id,
    )


class _ProgressHere:
    """Stands in for the actor that counts workers' progress."""

    def __init__(self, progress: Progress, num_done: int) -> None:
        self._progress, self._num_done = progress, num_done
        self._of_shard = dict[str, tuple[int, int, int]]()
        self.report = self

    def remote(self, key: str, num_images: int, num_instances: int, num_quarantined: int) -> None:
        """Take the report of a shard. The last one counts."""
        self._of_shard[key] = num_images, num_instances, num_quarantined
        images, instances, quarantined = map(sum, zip(*self._of_shard.values(), strict=True))
        self._progress.show(Counts(done=self._num_done + images, num_instances=instances, num_quarantined=quarantined))


def _label_here(config: Config, work: RunFolder, manifest: ShardManifest, model_uri: str, driver_id: str) -> None:
    """Label the pending shards in this process, with the same worker as on Ray."""
    pending = missing_shards(work, manifest)
    if not len(pending):
        return
    import torch  # here, because torch takes seconds to load, and bad input does not need it

    from raylabel.stages.label_worker import LabelShard

    gpus = 1.0 if torch.cuda.is_available() else 0.0
    label = replace(config.label, num_workers=1, num_gpus=gpus, decoding="threads")
    num_left = sum(_num_images(manifest, shard_id) for shard_id in pending.tolist())
    num_done = manifest.num_images - num_left
    with Progress("predict", manifest.num_images, unit="images", done=num_done) as progress:
        worker = LabelShard(
            config=config_dict(replace(config, label=label)),
            run=work.uri,
            model=model_uri,
            corrector=load_corrector(work).to_json(),
            fingerprint=_fingerprint(work),
            driver_id=driver_id,
            holds_back=False,
            counter=_ProgressHere(progress, num_done),
        )
        for shard_id in pending.tolist():
            worker(manifest.reference(shard_id))


def _num_images(manifest: ShardManifest, shard_id: int) -> int:
    """Return the number of images of a shard of a manifest with one generation."""
    return min(manifest.shard_size, manifest.num_images - shard_id * manifest.shard_size)
