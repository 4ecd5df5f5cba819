"""Pseudo-labels for other tools: COCO JSON, LVIS v1 JSON, YOLO segmentation."""

import csv
import io
import os
import posixpath
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import yaml
from pyarrow import fs

from raylabel.config import SelectionConfig, config_dict
from raylabel.dataset.image_headers import stored_orientation
from raylabel.dataset.images import ImageError, turned
from raylabel.dataset.pool.image import IMAGE_SUFFIXES
from raylabel.errors import InputError, StorageError
from raylabel.files.committing import commit_bytes
from raylabel.files.file_systems import absolute, split_options
from raylabel.files.json_files import commit_json
from raylabel.files.moving import remove
from raylabel.files.paths import join
from raylabel.files.reading import exists, file_type, list_files
from raylabel.masks.polygons import mask_polygon
from raylabel.masks.rle import Rle, decode_masks
from raylabel.predictions.context import MODEL_FEATURES
from raylabel.redaction import redacted
from raylabel.run.classes import load_categories
from raylabel.run.folder import RunFolder, load_run_config, run_folder
from raylabel.run.labels.kept import KeptImage, kept_images
from raylabel.run.labels.shards import STATUS_OK, committed_shards, read_fields
from raylabel.run.stage import finished

ExportFormat = Literal["coco", "lvis", "yolo"]


def export_labels(run: RunFolder | Path | str, format: ExportFormat, out: str | Path) -> dict[str, int]:
    """Write the pseudo-labels that the run's selection keeps.

    Images without a pseudo-label are left out, because an image without kept predictions may still show objects.

    - "coco": one JSON file. Images are numbered from 1. `file_name` is the pool's image id if the image's `uri` ends
      with it, else the `uri`. Annotations have masks as RLE, `score` (calibrated), `raw_score`, `mask_quality`, and the
      entries `background` and `runner_up` of the soft vector. `as_stored` of an image says whether its labels are of
      the stored pixels or of the displayed image. `info.raylabel` names the run, the corrector and the selection.
    - "lvis": the same as LVIS v1. Nobody verified the labels: `neg_category_ids` is empty, and
      `not_exhaustive_category_ids` holds every class with a pseudo-label. `frequency` comes from the run's labelled
      images; the counts are those of this file.
    - "yolo": a folder with `labels/*.txt` (one polygon per object) and `data.yaml`, named by the image ids. Polygons
      are of the displayed images, because YOLO's readers turn images by their EXIF orientation. If pool and
      folder are on a local disk, `images/` holds links to the images. Images that would share a label file, such as
      a.jpg and a.png, are named a-jpg and a-png; one line says how many, and `renamed.csv` lists them.

    An export is whole or not there. A failed one removes its files, and the next one replaces what a killed one left.

    Args:
        run: run folder with a labelled pool, a path or a URI.
        format: "coco", "lvis" or "yolo".
        out: JSON file (coco, lvis) or new folder (yolo) to write; path or URI.

    Returns:
        The numbers "images", "annotations" and "images_left_out".

    Raises:
        InputError: the run has no finished labels, the format is unknown, the folder is not empty, or an image id leads
            out of it. No file is written then.

    Examples:
        >>> import json, tempfile
        >>> import raylabel as rl
        >>> # run: the folder of a finished run
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     counts = rl.export_labels(run, "coco", f"{folder}/labels.json")
        ...     with open(f"{folder}/labels.json") as file:
        ...         content = json.load(file)
        >>> counts["annotations"] == len(content["annotations"])
        True
    """
    if format not in ("coco", "lvis", "yolo"):
        raise InputError(f"format must be coco, lvis or yolo, got {format!r}")
    run, out = run_folder(run), str(out)
    out = absolute(out)
    kind, wrong = ("folder", fs.FileType.File) if format == "yolo" else ("file", fs.FileType.Directory)
    if file_type(out) == wrong:
        raise InputError(f"{out}: must be a {kind} to write, got a {wrong.name.lower()}")
    config = load_run_config(run)
    labels, categories = finished(run, "label"), load_categories(run)
    counts: Counter[str] = Counter(images=0, annotations=0, images_left_out=0)
    images = _labelled_images(run, config.selection, categories, counts)
    if format == "yolo":
        _write_yolo(images, _YoloPaths(run), categories, out, max_pixels=config.data.max_image_pixels)
    else:
        content = _coco(images, categories, is_lvis=format == "lvis")
        lineage = {
            "run": redacted(run.uri),
            "fingerprint": labels["fingerprint"],
            "corrector": labels.get("corrector"),
            "corrector_digest": labels.get("corrector_digest"),
            "selection": config_dict(config.selection),
        }
        info = {
            "description": "Pseudo-labels: predicted by a model, checked by nobody",
            "version": version("raylabel"),
            "date_created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "raylabel": lineage,
        }
        commit_json(out, {"info": info, "licenses": [], **content})
    return dict(counts)


def _labelled_images(
    run: RunFolder, selection: SelectionConfig, categories: list[dict[str, Any]], counts: Counter[str]
) -> Iterator[KeptImage]:
    groups = np.array([one["frequency_group"] for one in categories])
    for uri in committed_shards(run).values():
        for image in kept_images(uri, selection, groups):
            if image.structs:
                counts.update(images=1, annotations=len(image.structs))
                yield image
            else:
                counts["images_left_out"] += 1


def _file_name(image: KeptImage) -> str:
    return image.image_id if f"/{split_options(image.uri)[0]}".endswith(f"/{image.image_id}") else image.uri


def _coco(images: Iterator[KeptImage], categories: list[dict[str, Any]], *, is_lvis: bool) -> dict[str, Any]:
    image_rows: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    num_images: Counter[int] = Counter()
    for image_id, image in enumerate(images, start=1):
        height, width = image.image_size_hw
        row = {"id": image_id, "file_name": _file_name(image), "height": height, "width": width, "uri": image.uri}
        row |= {"as_stored": bool(image.as_stored)}
        rows = [_annotation(one, image, categories) for one in image.structs]
        category_ids = sorted({one["category_id"] for one in rows})
        num_images.update(category_ids)
        if is_lvis:
            row |= {"neg_category_ids": [], "not_exhaustive_category_ids": category_ids}
        image_rows.append(row)
        for one in rows:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **one})
    num_instances = Counter(one["category_id"] for one in annotations)
    category_rows: list[dict[str, Any]] = []
    for one in categories:
        category_id = one["category_id"]
        row = {"id": category_id, "name": one["name"]}
        if is_lvis:
            row |= {
                "synonyms": [one["name"]],
                "frequency": one["frequency_group"],
                "image_count": num_images[category_id],
                "instance_count": num_instances[category_id],
            }
        category_rows.append(row)
    return {"images": image_rows, "annotations": annotations, "categories": category_rows}


def _annotation(struct: dict[str, Any], image: KeptImage, categories: list[dict[str, Any]]) -> dict[str, Any]:
    x0, y0, x1, y1 = struct["box_xyxy"]
    return {
        "category_id": categories[struct["class_index"]]["category_id"],
        "segmentation": {"size": list(image.image_size_hw), "counts": struct["mask_counts"].decode()},
        "area": struct["mask_area"],
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "iscrowd": 0,
        "score": struct["calibrated_score"],
        "raw_score": struct["raw_score"],
        # A soft vector of one class has no runner-up, and JSON has no NaN.
        **{name: value for name in MODEL_FEATURES if (value := struct["context"][name]) == value},
    }


def _write_yolo(
    images: Iterator[KeptImage], paths: "_YoloPaths", categories: list[dict[str, Any]], out: str, *, max_pixels: int
) -> None:
    renamed = io.StringIO()
    table = csv.writer(renamed, lineterminator="\n")
    table.writerow(["image_id", "path"])
    num_renamed = 0
    with _new_folder(out):
        for image in images:
            path = paths.of(image.image_id, image.uri)
            stem = _stem(path)
            if image.image_id in paths.renamed:
                table.writerow([image.image_id, path])
                num_renamed += 1
            commit_bytes(join(out, "labels", f"{stem}.txt"), _yolo_lines(image, max_pixels=max_pixels).encode())
            if "://" not in out and "://" not in image.uri and exists(image.uri):
                _link(Path(out, "images", path), image.uri)
        if num_renamed:
            commit_bytes(join(out, _RENAMED), renamed.getvalue().encode())
        names = {index: one["name"] for index, one in enumerate(categories)}
        text = io.StringIO()
        text.write(
            "# Pseudo-labels: predicted by a model, checked by nobody. `val` must be an annotated set of your own.\n"
        )
        yaml.safe_dump({"train": "images", "val": None, "names": names}, text, sort_keys=False, allow_unicode=True)
        commit_bytes(join(out, "data.yaml"), text.getvalue().encode())
    if num_renamed:
        print(f"{out}: {num_renamed} images would share a label file with another, so they are renamed ({_RENAMED})")


_RENAMED, _UNFINISHED = "renamed.csv", "unfinished"


@contextmanager
def _new_folder(out: str) -> Iterator[None]:
    """Write an empty folder inside the block. A failure removes everything again.

    Until the end a marker says that the export is unfinished, so that the next one may replace what a killed one left.
    """

    def clear() -> None:
        for name in ("labels", "images", _RENAMED, "data.yaml", _UNFINISHED):
            remove(join(out, name))

    if exists(join(out, _UNFINISHED)):
        clear()
    if list_files(out, recursive=True):
        raise InputError(f"{out}: the folder is not empty. Give a new one")
    is_new = not exists(out)
    try:
        commit_bytes(join(out, _UNFINISHED), b"")
        yield
        remove(join(out, _UNFINISHED))
    except BaseException:
        clear()
        if is_new:
            remove(out)
        raise


def _link(link: Path, image: str) -> None:
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(Path(image).absolute(), link)
    except OSError as error:
        raise StorageError(f"{link}: could not link to {image}: {error.strerror}") from error


class _YoloPaths:
    """Paths of a run's images below `images/`. Labels have the same paths below `labels/`, with `.txt` as suffix.

    A path is the image's id. Images whose label files would be the same get paths with their suffix in the name. All
    readable images count, so a path does not depend on the selection.

    Attributes:
        renamed: paths of the images whose path is not their id.

    Raises:
        InputError: an id leads out of the folder.
    """

    def __init__(self, run: RunFolder) -> None:
        num_of_stem = Counter(_stem(path) for _, path in _own_paths(run))
        self.renamed: dict[str, str] = {}
        for image_id, path in _own_paths(run):
            if num_of_stem[stem := _stem(path)] > 1:
                suffix = path[len(stem) :]
                first = f"{stem}-{suffix[1:]}" if suffix else stem
                free = (one for n in count(1) if (one := first if n == 1 else f"{first}-{n}") not in num_of_stem)
                num_of_stem[renamed := next(free)] = 1
                self.renamed[image_id] = renamed + suffix

    def of(self, image_id: str, uri: str) -> str:
        """Return the path of an image."""
        return self.renamed.get(image_id) or _own_path(image_id, uri)


def _own_paths(run: RunFolder) -> Iterator[tuple[str, str]]:
    """Yield id and own path of every readable image of the pool."""
    for shard in committed_shards(run).values():
        for row in read_fields(shard, ["image_id", "uri", "status"]).to_pylist():
            if row["status"] == STATUS_OK:
                yield row["image_id"], _own_path(row["image_id"], row["uri"])


def _own_path(image_id: str, uri: str) -> str:
    name = split_options(image_id)[0].rpartition("://")[2]
    path = PurePosixPath(name.lstrip("/"))
    if ".." in path.parts or not path.parts:
        raise InputError(f"image id {image_id!r} leads out of the folder to be written")
    suffix = posixpath.splitext(split_options(uri)[0])[1]
    is_known = path.suffix.lower() in IMAGE_SUFFIXES or suffix.lower() not in IMAGE_SUFFIXES
    return str(path) if is_known else f"{path}{suffix}"


def _stem(path: str) -> str:
    stem, suffix = posixpath.splitext(path)
    return stem if suffix.lower() in IMAGE_SUFFIXES else path


def _yolo_lines(image: KeptImage, *, max_pixels: int) -> str:
    rles = [Rle(size=list(image.image_size_hw), counts=one["mask_counts"]) for one in image.structs]
    masks_NHW = decode_masks(rles, image.image_size_hw)
    if image.as_stored:
        try:
            orientation = stored_orientation(image.uri, max_pixels=max_pixels)
        except ImageError as error:
            raise InputError(f"{image.uri}: can't be read for its EXIF orientation: {error}") from error
        masks_NHW = turned(masks_NHW.transpose(1, 2, 0), orientation).transpose(2, 0, 1)
    height, width = masks_NHW.shape[1:]
    lines = []
    for one, mask in zip(image.structs, masks_NHW, strict=True):
        shares = np.clip(mask_polygon(mask) / (width, height), 0, 1).ravel().tolist()
        if shares:
            # Each share is written once, because a ragged mask has many points in few rows and columns.
            text_of = {share: f"{share:.6f}".rstrip("0").rstrip(".") for share in set(shares)}
            lines.append(f"{one['class_index']} {' '.join([text_of[share] for share in shares])}\n")
    return "".join(lines)
