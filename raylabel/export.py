"""Pseudo-labels for other tools: COCO JSON, LVIS v1 JSON, YOLO segmentation."""

import io
import os
import posixpath
import time
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import yaml

from raylabel.config import SelectionConfig, config_dict
from raylabel.errors import InputError
from raylabel.files.storage import commit_bytes, commit_json, exists, join, list_files
from raylabel.masks.polygons import mask_polygon
from raylabel.masks.rle import Rle, decode_masks
from raylabel.redaction import redacted
from raylabel.run.classes import load_categories
from raylabel.run.folder import RunFolder, load_run_config, run_folder
from raylabel.run.labels.kept import KeptImage, kept_images
from raylabel.run.labels.shards import committed_shards
from raylabel.run.stage import finished

ExportFormat = Literal["coco", "lvis", "yolo"]


def export_labels(run: RunFolder | Path | str, format: ExportFormat, out: str | Path) -> dict[str, int]:
    """Write the pseudo-labels that the run's selection keeps.

    Images without a pseudo-label are left out, because an image without kept predictions may still show objects.

    - "coco": one JSON file. Images are numbered from 1. `file_name` is the pool's image id if the image's `uri` ends
      with it, else the `uri`. Annotations have masks as RLE, `score` (calibrated), `raw_score` and `mask_quality`.
      `info.raylabel` names the run, the corrector and the selection.
    - "lvis": the same as LVIS v1. Nobody verified the labels: `neg_category_ids` is empty, and
      `not_exhaustive_category_ids` holds every class with a pseudo-label. `frequency` comes from the run's labelled
      images; the counts are those of this file.
    - "yolo": a folder with `labels/*.txt` (one polygon per object) and `data.yaml`. If pool and folder are on a local
      disk, `images/` holds links to the images.

    Args:
        run: run folder with a labelled pool, a path or a URI.
        format: "coco", "lvis" or "yolo".
        out: JSON file (coco, lvis) or new folder (yolo) to write; path or URI.

    Returns:
        The numbers "images", "annotations" and "images_left_out".

    Raises:
        InputError: the run has no finished labels, the format is unknown, or the folder is not empty.

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
    config = load_run_config(run)
    labels, categories = finished(run, "label"), load_categories(run)
    counts: Counter[str] = Counter(images=0, annotations=0, images_left_out=0)
    images = _labelled_images(run, config.selection, categories, counts)
    if format == "yolo":
        _write_yolo(images, categories, out)
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
    return image.image_id if f"/{image.uri}".endswith(f"/{image.image_id}") else image.uri


def _coco(images: Iterator[KeptImage], categories: list[dict[str, Any]], *, is_lvis: bool) -> dict[str, Any]:
    image_rows: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    num_images: Counter[int] = Counter()
    for image_id, image in enumerate(images, start=1):
        height, width = image.image_size_hw
        row = {"id": image_id, "file_name": _file_name(image), "height": height, "width": width, "uri": image.uri}
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
        "mask_quality": struct["mask_quality"],
    }


def _write_yolo(images: Iterator[KeptImage], categories: list[dict[str, Any]], out: str) -> None:
    if list_files(out, recursive=True):
        raise InputError(f"{out}: the folder is not empty. Give a new one")
    written: dict[str, str] = {}
    for image in images:
        name = _yolo_name(image)
        stem = posixpath.splitext(name)[0]
        if stem in written:
            raise InputError(f"{out}: images {written[stem]!r} and {image.image_id!r} would share {stem}.txt")
        written[stem] = image.image_id
        commit_bytes(join(out, "labels", f"{stem}.txt"), _yolo_lines(image).encode())
        if "://" not in out and "://" not in image.uri and exists(image.uri):
            link = Path(out, "images", name)
            link.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(Path(image.uri).absolute(), link)
    names = {index: one["name"] for index, one in enumerate(categories)}
    text = io.StringIO()
    text.write(
        "# Pseudo-labels: predicted by a model, checked by nobody. `val` must be an annotated set of your own.\n"
    )
    yaml.safe_dump({"train": "images", "val": None, "names": names}, text, sort_keys=False, allow_unicode=True)
    commit_bytes(join(out, "data.yaml"), text.getvalue().encode())


def _yolo_name(image: KeptImage) -> str:
    """Return the image's path below `images/`. Labels have the same path below `labels/`."""
    path = PurePosixPath(image.image_id)
    if path.is_absolute() or ".." in path.parts:
        raise InputError(f"image id {image.image_id!r} leads out of the folder to be written")
    extension = posixpath.splitext(image.uri)[1] if not path.suffix and "#" not in image.uri else ""
    return f"{path}{extension}"


def _yolo_lines(image: KeptImage) -> str:
    height, width = image.image_size_hw
    rles = [Rle(size=[height, width], counts=one["mask_counts"]) for one in image.structs]
    lines = []
    for one, mask in zip(image.structs, decode_masks(rles, image.image_size_hw), strict=True):
        polygon = np.clip(mask_polygon(mask) / (width, height), 0, 1)
        if len(polygon):
            coordinates = " ".join(f"{value:.6f}".rstrip("0").rstrip(".") for value in polygon.ravel())
            lines.append(f"{one['class_index']} {coordinates}\n")
    return "".join(lines)
