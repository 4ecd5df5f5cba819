"""The strict reader of LVIS and COCO annotation files.

The reader refuses every defect that could fail a stage, and names the file and the id. Stages then trust the set.
"""

import math
import posixpath
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar

from pyarrow import fs

from raylabel.dataset.annotated_set import AnnotatedSet, Category, GroundTruth, ImageRecord
from raylabel.dataset.frequency import FrequencyGroup
from raylabel.dataset.pool.image import climbs_out
from raylabel.errors import InputError
from raylabel.files import storage
from raylabel.files.file_systems import split_options
from raylabel.masks.rle import Rle, first_bad_rle

__all__ = [
    "AnnotatedSet",
    "Category",
    "GroundTruth",
    "ImageRecord",
    "read_annotations",
    "validate_same_categories",
]

_MAX_PIXELS = 2**31
# In image sides. Polygons may leave the image a little, but rasterising distant points would take unbounded memory.
_MAX_OUTSIDE = 10
_Id = TypeVar("_Id", bound=Hashable)


def read_annotations(path: str | Path, images_root: str | Path | None = None) -> AnnotatedSet:
    """Read and check an LVIS or COCO annotation file.

    A file is federated (LVIS) if any image has `neg_category_ids`. A list that is `null` counts as empty. Categories
    without annotations are allowed. An image without `file_name` (LVIS v1) has its file name from its `coco_url`. The
    name is the last two parts of the URL if that folder exists below the root, else the last part.

    Args:
        path: local path or URI of the JSON file.
        images_root: folder or URI prefix of the images. No name may lead out of it. None stands for the folder of the
            file, and for images that nobody reads: their names may be anything.

    Raises:
        InputError: the file is missing or not JSON; a list or field is missing or has the wrong type; an id is repeated
            or unknown; a number is not finite; a polygon has fewer than three points; an RLE does not have its image's
            size. The message names the file and the image, annotation or category.

    Examples:
        >>> import json
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import raylabel as rl
        >>> square = [[0, 0, 4, 0, 4, 4, 0, 4]]
        >>> content = {
        ...     "images": [{"id": 1, "file_name": "a.jpg", "height": 8, "width": 8}],
        ...     "categories": [{"id": 5, "name": "tile"}],
        ...     "annotations": [{"id": 1, "image_id": 1, "category_id": 5, "segmentation": square}],
        ... }
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "annotations.json")
        ...     _ = path.write_text(json.dumps(content))
        ...     annotated = rl.read_annotations(str(path))
        >>> annotated.class_names
        ('tile',)
        >>> annotated.ground_truth(0).boxes_xyxy.tolist()
        [[0.0, 0.0, 4.0, 4.0]]
    """
    path, images_root = str(path), None if images_root is None else str(images_root)
    file_system, local_path = storage.open_uri(path)
    if file_system.get_file_info(local_path).type == fs.FileType.Directory:
        raise InputError(f"{path}: must be a JSON file, got a folder")
    content = storage.read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: must be an object with images, annotations and categories")
    rows = {name: _rows(content, name, path) for name in ("images", "annotations", "categories")}
    if not rows["images"]:
        raise InputError(f"{path}: has no images")
    if not rows["categories"]:
        raise InputError(f"{path}: has no categories")

    by_id = {
        category_id: _category(one, category_id, path)
        for category_id, one in _by_id(rows["categories"], "category", path, _integer_id).items()
    }
    categories = tuple(by_id[category_id] for category_id in sorted(by_id))
    class_index_of = {category.category_id: index for index, category in enumerate(categories)}
    folders = _Folders(posixpath.dirname(path) if images_root is None else images_root, images_root is not None)
    images = tuple(
        _image(one, image_id, folders, class_index_of, path)
        for image_id, one in _by_id(rows["images"], "image", path, _image_id).items()
    )
    row_of = {image.image_id: row for row, image in enumerate(images)}
    grouped: list[list[dict[str, Any]]] = [[] for _ in images]
    compressed: list[Rle] = []
    compressed_ids: list[int | str] = []
    for annotation_id, one in _by_id(rows["annotations"], "annotation", path, _image_id).items():
        where = f"{path}: annotation {annotation_id}"
        row = row_of.get(one["image_id"]) if isinstance(one.get("image_id"), int | str) else None
        if row is None:
            raise InputError(f"{where}: unknown image {one.get('image_id')!r}")
        if not isinstance(one.get("category_id"), int) or one["category_id"] not in class_index_of:
            raise InputError(f"{where}: unknown category {one.get('category_id')!r}")
        _check_annotation(one, images[row].image_size_hw, where)
        grouped[row].append(one)
        if isinstance(one["segmentation"], dict) and isinstance(one["segmentation"]["counts"], str):
            compressed.append(Rle(size=one["segmentation"]["size"], counts=one["segmentation"]["counts"].encode()))
            compressed_ids.append(annotation_id)
    bad = first_bad_rle(compressed)
    if bad is not None:
        raise InputError(f"{path}: annotation {compressed_ids[bad[0]]}: {bad[1]}")
    return AnnotatedSet(
        images=images,
        categories=categories,
        annotations=tuple(tuple(of_image) for of_image in grouped),
        is_federated=any("neg_category_ids" in one for one in rows["images"]),
    )


def validate_same_categories(first: AnnotatedSet, second: AnnotatedSet) -> None:
    """Check that two sets have the same classes, by id and name.

    Raises:
        InputError: the classes differ; the message names the first category that differs.
    """
    names, others = ({one.category_id: one.name for one in each.categories} for each in (first, second))
    for category_id in sorted(names.keys() | others.keys()):
        if names.get(category_id) != others.get(category_id):
            raise InputError(
                f"categories must be the same in every annotation file, got for id {category_id}: "
                f"{names.get(category_id, 'none')!r} and {others.get(category_id, 'none')!r}"
            )


def _rows(content: dict[str, Any], name: str, where: str) -> list[dict[str, Any]]:
    if name not in content:
        raise InputError(f"{where}: has no list {name!r}")
    rows = content[name] if content[name] is not None else []
    if not isinstance(rows, list) or not all(isinstance(one, dict) for one in rows):
        raise InputError(f"{where}: {name!r} must be a list of objects")
    return rows


def _by_id(
    rows: list[dict[str, Any]], kind: str, path: str, read_id: Callable[[Any, str], _Id]
) -> dict[_Id, dict[str, Any]]:
    found: dict[_Id, dict[str, Any]] = {}
    for index, one in enumerate(rows):
        one_id = read_id(one.get("id"), f"{path}: {kind} number {index}")
        if one_id in found:
            raise InputError(f"{path}: {kind} id {one_id} is given twice")
        found[one_id] = one
    return found


def _integer_id(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{where}: id must be an integer, got {value!r}")
    return value


def _image_id(value: Any, where: str) -> int | str:
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise InputError(f"{where}: id must be an integer or a string, got {value!r}")
    return value


def _category(one: dict[str, Any], category_id: int, path: str) -> Category:
    if not isinstance(one.get("name"), str):
        raise InputError(f"{path}: category {category_id}: name must be a string, got {one.get('name')!r}")
    frequency = one.get("frequency")
    if frequency not in (*FrequencyGroup, None):
        raise InputError(f"{path}: category {category_id}: frequency must be r, c or f, got {frequency!r}")
    return Category(
        category_id=category_id,
        name=one["name"],
        frequency=None if frequency is None else FrequencyGroup(frequency),
    )


def _image(
    one: dict[str, Any], image_id: int | str, folders: "_Folders", class_index_of: dict[int, int], path: str
) -> ImageRecord:
    where = f"{path}: image {image_id}"
    height, width = _size(one, "height", where), _size(one, "width", where)
    if height * width >= _MAX_PIXELS:
        raise InputError(f"{where}: height * width must be below {_MAX_PIXELS}, got {height} x {width}")
    classes: dict[str, frozenset[int]] = {}
    for name in ("neg_category_ids", "not_exhaustive_category_ids"):
        listed = one.get(name) or []
        if not isinstance(listed, list):
            raise InputError(f"{where}: {name} must be a list, got {listed!r}")
        unknown = [value for value in listed if not isinstance(value, int) or value not in class_index_of]
        if unknown:
            raise InputError(f"{where}: {name} has an unknown category {unknown[0]!r}")
        classes[name] = frozenset(class_index_of[value] for value in listed)
    file_name = _file_name(one, folders, where)
    uri = storage.join(folders.root, file_name)
    if folders.holds_images and (climbs_out(file_name) or split_options(uri)[1] != split_options(folders.root)[1]):
        raise InputError(f"{where}: must lie below {folders.root}, got {file_name}")
    return ImageRecord(
        image_id=image_id,
        file_name=file_name,
        uri=uri,
        height=height,
        width=width,
        negative_classes=classes["neg_category_ids"],
        not_exhaustive_classes=classes["not_exhaustive_category_ids"],
    )


def _size(one: dict[str, Any], name: str, where: str) -> int:
    value = one.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{where}: {name} must be a positive integer, got {value!r}")
    return value


def _file_name(one: dict[str, Any], folders: "_Folders", where: str) -> str:
    for name in ("file_name", "coco_url"):
        if isinstance(one.get(name), str) and one[name]:
            break
    else:
        raise InputError(f"{where}: has neither file_name nor coco_url")
    if name == "file_name":
        return one[name]
    parent, last = posixpath.split(one[name])
    folder = posixpath.basename(parent)
    return posixpath.join(folder, last) if folders.has(folder) else last


class _Folders:
    """Folders below the images' root. Each is looked up once, because an object store takes milliseconds per answer."""

    def __init__(self, root: str, holds_images: bool) -> None:
        self.root, self.holds_images = root, holds_images
        self._known: dict[str, bool] = {}

    def has(self, name: str) -> bool:
        if name not in self._known:
            self._known[name] = bool(name) and storage.exists(storage.join(self.root, name))
        return self._known[name]


def _check_annotation(one: dict[str, Any], image_size_hw: tuple[int, int], where: str) -> None:
    if one.get("iscrowd") not in (None, 0, 1):
        raise InputError(f"{where}: iscrowd must be 0 or 1, got {one['iscrowd']!r}")
    box = one.get("bbox")
    if box is not None and (not _are_finite(box, 4) or box[2] < 0 or box[3] < 0):
        raise InputError(f"{where}: bbox must be 4 finite numbers x, y, width >= 0, height >= 0, got {box}")
    if one.get("area") is not None and not _are_finite([one["area"]], 1):
        raise InputError(f"{where}: area must be a finite number, got {one['area']!r}")
    segmentation = one.get("segmentation")
    if isinstance(segmentation, list):
        _check_polygons(segmentation, image_size_hw, where)
    elif isinstance(segmentation, dict):
        _check_rle(segmentation, image_size_hw, where)
    else:
        raise InputError(f"{where}: segmentation must be polygons or RLE, got {type(segmentation).__name__}")


def _check_polygons(polygons: list[Any], image_size_hw: tuple[int, int], where: str) -> None:
    limit = _MAX_OUTSIDE * max(image_size_hw)
    if not polygons:
        raise InputError(f"{where}: segmentation has no polygon")
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            length = len(polygon) if isinstance(polygon, list) else 0
            raise InputError(f"{where}: a polygon must have at least 3 points (6 numbers), got {length} numbers")
        if not _are_finite(polygon, len(polygon)):
            raise InputError(f"{where}: a polygon has a value that is not a finite number")
        if max(polygon) > limit or min(polygon) < -limit:
            raise InputError(f"{where}: a polygon lies far outside its image of {image_size_hw} pixels")


def _check_rle(rle: dict[str, Any], image_size_hw: tuple[int, int], where: str) -> None:
    """Check an RLE except the runs of a compressed one, because `first_bad_rle` checks those of all annotations
    together."""
    if rle.get("size") != list(image_size_hw):
        raise InputError(f"{where}: RLE size must be {list(image_size_hw)} like its image, got {rle.get('size')}")
    counts = rle.get("counts")
    if isinstance(counts, list):
        num_pixels = image_size_hw[0] * image_size_hw[1]
        if not all(isinstance(run, int) and run >= 0 for run in counts) or sum(counts) != num_pixels:
            raise InputError(f"{where}: RLE counts must be runs >= 0 that sum to {num_pixels}")
    elif not isinstance(counts, str):
        raise InputError(f"{where}: RLE counts must be a list or a string, got {type(counts).__name__}")


def _are_finite(values: Any, length: int) -> bool:
    """Tell whether `values` is a list of `length` finite numbers. One sum reveals any NaN or infinity in it."""
    if not isinstance(values, list) or len(values) != length:
        return False
    try:
        return math.isfinite(math.fsum(values))
    except (TypeError, OverflowError, ValueError):
        return False
