"""The generated long-tail set: federated LVIS v1 files, a pool, and the truth for measuring.

The set needs no downloads, and it resembles real long-tail data. Classes come in families of look-alikes (`classes`).
Objects hide parts of each other in front of clutter (`scenes`). Frequencies follow Zipf's law (`frequencies`). Only a
part of the objects is annotated (`federated`).
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raylabel.dataset.frequency import frequency_groups
from raylabel.dataset.synthetic.classes import SyntheticClass, synthetic_classes
from raylabel.dataset.synthetic.federated import FederatedImage, federate
from raylabel.dataset.synthetic.frequencies import draw_classes, zipf_weights
from raylabel.dataset.synthetic.scenes import draw_scene
from raylabel.errors import InputError
from raylabel.files.committing import commit_bytes
from raylabel.files.json_files import commit_json, read_json
from raylabel.files.moving import remove
from raylabel.files.paths import join
from raylabel.files.reading import exists
from raylabel.masks.rle import Rle, encode_masks, mask_areas, mask_boxes
from raylabel.progress import Progress

VERSION = 2
MIN_IMAGES = 20
MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 64, 1024
_JPEG_QUALITY = 95


@dataclass(frozen=True, kw_only=True)
class _Split:
    share: float
    folder: str
    flatten: float
    min_images: int


# Validation is less skewed, because AP on rare classes needs more than a handful of objects.
_SPLITS = {
    "labelled": _Split(share=0.20, folder="images", flatten=1.0, min_images=3),
    "calibration": _Split(share=0.10, folder="images", flatten=1.0, min_images=1),
    "val": _Split(share=0.17, folder="images", flatten=0.5, min_images=5),
    "pool": _Split(share=0.53, folder="pool", flatten=1.0, min_images=1),
}
SPLITS = tuple(_SPLITS)
"""Names of the splits: labelled, calibration, val, pool."""

_FILES = ("labelled.json", "calibration.json", "calibration_full.json", "val.json", "pool_truth.json")


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """One written image with all its objects."""

    image_id: int
    file_name: str
    class_indices: tuple[int, ...]
    masks: tuple[Rle, ...]


def generate(
    out: str | Path,
    *,
    num_images: int = 1200,
    num_classes: int = 24,
    seed: int = 0,
    image_size: int = 128,
    sizes: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Write the generated set, with the same bytes for the same arguments.

    - `labelled.json`, `calibration.json` and `val.json` are federated LVIS v1 files of `images/`.
    - `pool/` holds the unlabelled images.
    - `pool_truth.json` and `calibration_full.json` have the full truth of two splits in COCO form, for measuring only.
      The `file_name`s of `pool_truth.json` are the pool's image ids.

    With the default of 1,200 images the splits have 240, 120, 204 and 636 images. Frequency groups count the images of
    `labelled.json`; frequent classes (over 100 images) need about 1,000 images in total. A folder that was finished
    with the same arguments is left unchanged. A folder that was generated with other arguments is replaced.

    Args:
        out: folder or URI prefix.
        num_images: number of images of all splits, at least 20 and twice the number of classes.
        num_classes: number of classes, 2 to 96; see `classes`.
        seed: seed of every random choice, non-negative.
        image_size: side of the square images in pixels, 64 to 1024.
        sizes: number of images of each split (`SPLITS`), at least 1, in place of `num_images`.
        progress: gets the number of finished images; its total is the number of all images.

    Returns:
        Number of images per split: labelled, calibration, val, pool.

    Raises:
        InputError: an argument is out of its range, or `out` has images that were not generated.
    """
    if sizes is not None:
        _check_sizes(sizes)
        num_images = sum(sizes.values())
    _check_arguments(num_images, num_classes, seed, image_size)
    out = str(out)
    classes = synthetic_classes(num_classes)
    arguments: dict[str, Any] = {
        "version": VERSION,
        "num_images": num_images,
        "num_classes": num_classes,
        "seed": seed,
        "image_size": image_size,
    } | ({} if sizes is None else {"sizes": dict(sizes)})
    sizes = _split_sizes(num_images) if sizes is None else dict(sizes)
    if _is_finished(out, arguments):
        if progress:
            progress.update(num_images)
        return sizes

    commit_json(_marker(out), arguments | {"is_finished": False})
    ranks = np.random.default_rng([seed, 0]).permutation(num_classes)
    drawn: dict[str, list[_Drawn]] = {}
    num_done = 0
    for number, (name, split) in enumerate(_SPLITS.items(), start=1):
        weights = zipf_weights(ranks, flatten=split.flatten)
        rng = np.random.default_rng([seed, number])
        drawn[name] = []
        for index, class_indices in enumerate(draw_classes(sizes[name], weights, split.min_images, rng)):
            image_id = num_done + 1
            scene_rng = np.random.default_rng([seed, number, index])
            image, masks_NHW = draw_scene([classes[one] for one in class_indices], image_size, scene_rng)
            file_name = f"{image_id:06d}.jpg"
            commit_bytes(join(out, split.folder, file_name), _jpeg(image))
            masks = tuple(encode_masks(masks_NHW))
            drawn[name].append(
                _Drawn(image_id=image_id, file_name=file_name, class_indices=tuple(class_indices), masks=masks)
            )
            num_done += 1
            if progress:
                progress.update(num_done)
    for file_name, content in _annotation_files(drawn, classes, seed, image_size).items():
        commit_json(join(out, file_name), content)
    commit_json(_marker(out), arguments | {"is_finished": True})
    return sizes


def _check_arguments(num_images: int, num_classes: int, seed: int, image_size: int) -> None:
    if num_images < max(MIN_IMAGES, 2 * num_classes):
        raise InputError(
            f"number of images must be at least {MIN_IMAGES} and twice the number of classes, got {num_images} "
            f"images and {num_classes} classes"
        )
    if seed < 0:
        raise InputError(f"seed must be >= 0, got {seed}")
    if not MIN_IMAGE_SIZE <= image_size <= MAX_IMAGE_SIZE:
        raise InputError(f"image size must be from {MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE} pixels, got {image_size}")


def _check_sizes(sizes: Mapping[str, int]) -> None:
    if set(sizes) != set(SPLITS):
        raise InputError(f"sizes must name the splits {', '.join(SPLITS)}, got {', '.join(sizes)}")
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"size of split {name} must be >= 1, got {size}")


def _split_sizes(num_images: int) -> dict[str, int]:
    sizes = {name: max(1, round(split.share * num_images)) for name, split in _SPLITS.items() if name != "pool"}
    return sizes | {"pool": num_images - sum(sizes.values())}


def _marker(out: str) -> str:
    return join(out, "generated.json")


def _is_finished(out: str, arguments: dict[str, Any]) -> bool:
    """Tell whether the folder has the set of these arguments. A set generated with other arguments is removed."""
    folders = sorted({split.folder for split in _SPLITS.values()})
    if not exists(_marker(out)):
        for name in (*folders, *_FILES):
            if exists(join(out, name)):
                raise InputError(f"{join(out, name)}: was not generated by raylabel. Choose another folder.")
        return False
    if read_json(_marker(out)) == arguments | {"is_finished": True} and all(
        exists(join(out, name)) for name in (*folders, *_FILES)
    ):
        return True
    for name in (*_FILES, *folders):
        remove(join(out, name))
    return False


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _annotation_files(
    drawn: dict[str, list[_Drawn]], classes: Sequence[SyntheticClass], seed: int, image_size: int
) -> dict[str, dict[str, Any]]:
    federated = {
        name: federate([one.class_indices for one in images], len(classes), [seed, number, 0, 1])
        for number, (name, images) in enumerate(drawn.items())
        if name != "pool"
    }
    categories = _categories(classes, drawn["labelled"], federated["labelled"])
    contents = {
        f"{name}.json": _content(drawn[name], of_split, classes, categories, image_size)
        for name, of_split in federated.items()
    }
    for file_name, name in (("calibration_full.json", "calibration"), ("pool_truth.json", "pool")):
        contents[file_name] = _content(drawn[name], None, classes, categories, image_size)
    return contents


def _categories(
    classes: Sequence[SyntheticClass], labelled: list[_Drawn], federated: list[FederatedImage]
) -> list[dict[str, Any]]:
    """Make LVIS categories with the counts of the annotations in `labelled.json`."""
    image_counts, instance_counts = np.zeros((2, len(classes)), dtype=np.int64)
    for one, annotated in zip(labelled, federated, strict=True):
        kept = [one.class_indices[index] for index in annotated.kept]
        np.add.at(instance_counts, kept, 1)
        image_counts[sorted(set(kept))] += 1
    return [
        {
            "id": one.category_id,
            "name": one.name,
            "synset": f"{one.name}.n.01",
            "synonyms": [one.name],
            "def": f"a {one.shape} of a hue about {360 * one.hue:.0f} degrees",
            "frequency": str(group),
            "image_count": int(num_images),
            "instance_count": int(num_instances),
        }
        for one, group, num_images, num_instances in zip(
            classes, frequency_groups(image_counts), image_counts, instance_counts, strict=True
        )
    ]


def _content(
    drawn: list[_Drawn],
    federated: list[FederatedImage] | None,
    classes: Sequence[SyntheticClass],
    categories: list[dict[str, Any]],
    image_size: int,
) -> dict[str, Any]:
    """Make a file in LVIS v1 form, or in COCO form with every object if `federated` is None."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for row, one in enumerate(drawn):
        image: dict[str, Any] = {
            "id": one.image_id,
            "file_name": one.file_name,
            "height": image_size,
            "width": image_size,
        }
        if federated is None:
            kept: Sequence[int] = range(len(one.masks))
        else:
            kept = federated[row].kept
            image["neg_category_ids"] = [classes[each].category_id for each in federated[row].negative_classes]
            image["not_exhaustive_category_ids"] = [
                classes[each].category_id for each in federated[row].not_exhaustive_classes
            ]
        images.append(image)
        areas, boxes_xyxy = mask_areas(one.masks).tolist(), mask_boxes(one.masks).tolist()
        for index in kept:
            x0, y0, x1, y1 = boxes_xyxy[index]
            mask = one.masks[index]
            annotation = {
                "id": len(annotations) + 1,
                "image_id": one.image_id,
                "category_id": classes[one.class_indices[index]].category_id,
                "segmentation": {"size": list(mask["size"]), "counts": mask["counts"].decode()},
                "area": areas[index],
                "bbox": [x0, y0, x1 - x0, y1 - y0],
            }
            annotations.append(annotation if federated is not None else annotation | {"iscrowd": 0})
    info = {"description": "raylabel's generated long-tail set", "version": str(VERSION)}
    return {
        "info": info,
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
