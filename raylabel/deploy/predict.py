"""The command `predict`: a trained model on new images, written to one file.

The images are listed, cut into shards and labelled as the stage `label` does it, in a folder beside the file. Few
images are predicted in this process, many on Ray. An interrupted call leaves the folder, and the next one continues.
"""

import posixpath
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raylabel.calibration import corrector_from_json
from raylabel.calibration.correctors.file import commit_corrector
from raylabel.config import Config, LabelConfig, config_dict
from raylabel.dataset.image_errors import ImageError
from raylabel.dataset.image_source import ImageSource, read_source
from raylabel.dataset.pool.access import Access
from raylabel.dataset.pool.listing import iter_pool
from raylabel.dataset.pool.manifest import ShardManifest, read_manifest, write_manifest
from raylabel.deploy.model_folder import ModelFolder, find_model
from raylabel.deploy.prediction_file import prediction_file, suffix_of
from raylabel.deploy.scored_instances import draw_scored
from raylabel.errors import InputError
from raylabel.files.file_systems import split_options
from raylabel.files.storage import (
    commit_bytes,
    commit_json,
    committed_file,
    digest,
    exists,
    file_digest,
    join,
    list_files,
    read_json_object,
    remove,
    split,
)
from raylabel.masks.rle import Rle
from raylabel.predictions.drawing import encode_picture
from raylabel.progress import Counts, Progress
from raylabel.redaction import redacted
from raylabel.run.calibration import corrector_uri
from raylabel.run.classes import classes_uri, write_classes
from raylabel.run.folder import RunFolder
from raylabel.run.labels.in_validation import compare_with_nothing
from raylabel.run.labels.kept import selected_batches
from raylabel.run.labels.manifest import commit_plan, manifest_folder, missing_shards
from raylabel.run.labels.shards import LABELS_FOLDER, STATUS_OK, committed_shards
from raylabel.run.labels.survey import unlabelled_images
from raylabel.run.lease import hold_lease
from raylabel.run.models import MODEL_FILES

HERE_AT_MOST = 256
"""Largest number of images that are predicted in this process unless Ray is asked for."""

_SHOWN = 10
"""Images that can't be read, shown on the console. A file beside the output has all of them."""


def predict_files(
    model: str | Path,
    images: str | Path,
    out: str | Path,
    *,
    draw: str | Path | None = None,
    min_score: float | None = None,
    raw: bool = False,
    teacher: bool = False,
    use_ray: bool = False,
) -> dict[str, int]:
    """Predict images with a trained model, and write the predictions that the model's selection keeps.

    Args:
        model: see `find_model`.
        images: an image, or any pool that `iter_pool` lists; path or URI.
        out: file to write: `.json` (a COCO results file), `.jsonl` or `.parquet` (see `prediction_file`).
        draw: new folder for pictures of the images with masks, class names and scores.
        min_score: smallest calibrated score, in place of the smallest scores of the run's selection.
        raw: raw scores, and every prediction.
        teacher: take a run's teacher, not its student.
        use_ray: predict on Ray, however few the images are.

    Returns:
        The numbers of `images`, `objects` and `unreadable`: images without predictions because they can't be used.

    Raises:
        InputError: the model, the images or an argument is refused, the file exists, no image can be used, or another
            process writes the same file.
        StorageError: the disk or the network failed. The same call continues.
    """
    out = _absolute(out)
    suffix_of(out)
    work = RunFolder(_beside(out, ".unfinished"))
    if exists(out):
        raise InputError(f"{out}: exists already. Remove it, or give another --out.")
    if draw is not None and list_files(draw := _absolute(draw), recursive=True) and not exists(work.uri):
        raise InputError(f"{draw}: the folder is not empty. Give a new one.")
    found = find_model(model, teacher=teacher, raw=raw)
    found = replace(found, selection=found.selecting(min_score))
    for remark in found.remarks:
        print(f"predict: WARNING: {remark}", flush=True)
    with hold_lease(work) as driver_id:
        with _removed_if_refused(work):
            manifest = _prepare(work, found, _absolute(images))
            config = replace(found.config, label=_settings(found.config.label))
            if use_ray or manifest.num_images > HERE_AT_MOST:
                _label_on_ray(config, work, manifest, found.uri, driver_id)
            else:
                _label_here(config, work, manifest, found, driver_id)
            counts = _write(work, found, out, draw)
        remove(work.uri)
    return counts


def _absolute(place: str | Path) -> str:
    text = str(place)
    return text if "://" in text else str(Path(text).expanduser().absolute())


def _beside(out: str, ending: str) -> str:
    folder, name = split(out)
    return join(folder, name + ending)


@contextmanager
def _removed_if_refused(work: RunFolder) -> Iterator[None]:
    """Remove the folder after bad input, unless it holds a shard that the next call needs not make again."""
    try:
        yield
    except InputError:
        if not committed_shards(work):
            remove(work.uri)
        raise


def _prepare(work: RunFolder, model: ModelFolder, images: str) -> ShardManifest:
    """Make the folder ready to label, or take over what an interrupted call has left. Other leftovers are removed."""
    corrector = model.corrector or corrector_from_json({"kind": "none"})
    label = model.config.label
    made_of = {
        "model": [file_digest(join(model.uri, name)) for name in MODEL_FILES],
        "corrector": corrector.to_json(),
        "images": images,
        "label": {name: getattr(label, name) for name in ("shard_size", "score_threshold", "max_per_image", "top_k")}
        | label.mask_quality_inputs,
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


def _settings(label: LabelConfig) -> LabelConfig:
    """Return the settings of a run's `label` for any machine. Every image may be unreadable: they are listed."""
    return replace(label, max_bad_fraction=1.0, num_workers="auto")


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


def _label_here(config: Config, work: RunFolder, manifest: ShardManifest, model: ModelFolder, driver_id: str) -> None:
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
            model=model.uri,
            corrector=(model.corrector or corrector_from_json({"kind": "none"})).to_json(),
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


def _write(work: RunFolder, model: ModelFolder, out: str, draw: str | Path | None) -> dict[str, int]:
    """Write the output from the shards: unreadable images first, the file itself last.

    Raises:
        InputError: no image could be used. The shards are removed, because the images may be repaired.
    """
    shards = committed_shards(work).values()
    counts = {"images": 0, "objects": 0, "unreadable": 0}
    with ExitStack() as open_files:
        file = open_files.enter_context(prediction_file(out, model))
        for shard in shards:
            for batch in selected_batches(shard, model.selection, model.classes.frequency_groups):
                file.write(batch)
                counts["images"] += batch.num_rows
                counts["unreadable"] += sum(status != STATUS_OK for status in batch["status"].to_pylist())
                counts["objects"] += len(batch["instances"].flatten())
                if draw is not None:
                    _draw(batch, str(draw), model)
        if counts["unreadable"]:
            _list_unreadable(list(shards), out, counts["unreadable"])
        if counts["unreadable"] == counts["images"]:
            first = next(_unreadable(list(shards)))
            remove(work.uri)
            raise InputError(
                f"none of {counts['images']} images can be used, so nothing is written. "
                f"First: {first['uri']} ({first['reason']})."
            )
    return counts


def _unreadable(shards: list[str]) -> Iterator[dict[str, Any]]:
    for shard in shards:
        yield from unlabelled_images(shard).to_pylist()


def _list_unreadable(shards: list[str], out: str, num: int) -> None:
    """Show the first images that can't be used, and write all of them into a file if there are more."""
    for place, one in enumerate(_unreadable(shards)):
        if place == _SHOWN:
            break
        print(f"predict: not readable: {redacted(one['uri'])}: {one['reason']}", flush=True)
    if num > _SHOWN:
        uri = _beside(out, ".unreadable.csv")
        print(f"predict: {num - _SHOWN} more are not readable, all are listed in {redacted(uri)}", flush=True)
        _write_csv(uri, shards)


def _write_csv(uri: str, shards: list[str]) -> None:
    import csv

    with committed_file(uri) as path, open(path, "w", newline="") as file:
        table = csv.DictWriter(file, ("image_id", "uri", "reason"))
        table.writeheader()
        table.writerows(_unreadable(shards))


def _draw(batch: pa.RecordBatch, folder: str, model: ModelFolder) -> None:
    """Write a picture of each image, named by the image's id."""
    names, max_pixels = model.classes.names, model.config.data.max_image_pixels
    for image in batch.to_pylist():
        if image["status"] != STATUS_OK:
            continue
        size_hw, found = (image["height"], image["width"]), image["instances"]
        source = ImageSource(image["uri"], size_hw, bool(image["as_stored"]))
        try:
            pixels_HW3 = read_source(source, max_pixels=max_pixels)
        except ImageError as error:
            print(f"predict: not drawn: {redacted(image['uri'])}: {error}", flush=True)
            continue
        picture = draw_scored(
            pixels_HW3,
            [Rle(size=list(size_hw), counts=one["mask_counts"]) for one in found],
            [names[one["class_index"]] for one in found],
            np.array([one["calibrated_score"] for one in found]),
        )
        commit_bytes(join(folder, picture_name(image["image_id"])), encode_picture(picture))


def picture_name(image_id: str) -> str:
    """Return the relative path of an image's picture: its id, as a path that stays in its folder, ending with .jpg."""
    path = split_options(image_id)[0].rpartition("://")[2]
    parts = [part for part in posixpath.normpath(path).split("/") if part not in ("", ".", "..")]
    name = "/".join(parts) or "image"
    return name if name.lower().endswith((".jpg", ".jpeg")) else f"{name}.jpg"
