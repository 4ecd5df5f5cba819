"""The strict reader of LVIS and COCO annotation files.

The reader refuses every defect that could fail a stage, and names the file and the id. Stages then trust the set.
"""

import posixpath
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pyarrow import fs

from raylabel.dataset.annotated_set import AnnotatedSet, Category, GroundTruth, ImageRecord
from raylabel.dataset.fields import (
    by_id,
    check_box,
    check_categories_of_image,
    check_category_id,
    check_crowd_and_area,
    check_frequency,
    check_image_id,
    check_image_size,
    check_mask,
    listed_objects,
    look_up,
    refuse_ids_of_two_types,
)
from raylabel.errors import InputError, shown, shown_name
from raylabel.files import storage
from raylabel.files.file_systems import split_options
from raylabel.masks.segmentation import first_bad_runs

__all__ = [
    "AnnotatedSet",
    "Category",
    "GroundTruth",
    "ImageRecord",
    "read_annotations",
    "validate_same_categories",
]


def read_annotations(path: str | Path, images_root: str | Path | None = None) -> AnnotatedSet:
    """Read and check an LVIS or COCO annotation file.

    A file is federated (LVIS) if any image has `neg_category_ids`. A list that is `null` counts as empty. Categories
    without annotations are allowed. An image without `file_name` (LVIS v1) has its file name from its `coco_url`. The
    name is the last two parts of the URL if that folder exists below the root, else the last part. `as_stored` of an
    image, which raylabel's exports have, says whether its annotations are of the stored or of the displayed pixels.

    Args:
        path: local path or URI of the JSON file.
        images_root: folder or URI prefix of the images. No name may lead out of it. None stands for the folder of the
            file, and for images that nobody reads: their names may be anything.

    Raises:
        InputError: the file is missing or not JSON; a list or field is missing or has the wrong type; an id or a file
            name is repeated; an id is unknown; two image ids differ by their type alone (1 and "1"); a number is not
            finite; a polygon has fewer than three points or lies far outside its image; an RLE does not have its
            image's size. The message names the file and the image, annotation or category.

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
    rows = {name: listed_objects(content, name, path) for name in ("images", "annotations", "categories")}
    if not rows["images"]:
        raise InputError(f"{path}: has no images")
    if not rows["categories"]:
        raise InputError(f"{path}: has no categories")

    of_id = by_id(rows["categories"], "category", path, check_category_id)
    categories = tuple(_category(of_id[category_id], category_id, path) for category_id in sorted(of_id))
    class_index_of = {category.category_id: index for index, category in enumerate(categories)}
    folders = _Folders(storage.split(path)[0] if images_root is None else images_root, images_root is not None)
    images = tuple(
        _image(one, image_id, folders, class_index_of, path)
        for image_id, one in by_id(rows["images"], "image", path, check_image_id).items()
    )
    refuse_ids_of_two_types([image.image_id for image in images], path)
    _refuse_shared_names(images, path)
    row_of = {image.image_id: row for row, image in enumerate(images)}
    grouped: list[list[dict[str, Any]]] = [[] for _ in images]
    masks, annotation_ids = list[Any](), list[int | str]()
    for annotation_id, one in by_id(rows["annotations"], "annotation", path, check_image_id).items():
        where = f"{path}: annotation {shown_name(annotation_id)}"
        row = look_up(one, "image_id", row_of, where)
        look_up(one, "category_id", class_index_of, where)
        check_crowd_and_area(one, where)
        if one.get("bbox") is not None:
            check_box(one["bbox"], where)
        mask = check_mask(one.get("segmentation"), images[row].image_size_hw, where)
        masks.append(mask)
        annotation_ids.append(annotation_id)
        # The reader's own copy, because a mask's size may have been given as floats.
        grouped[row].append(one if mask is one["segmentation"] else one | {"segmentation": mask})
    bad = first_bad_runs(masks)
    if bad is not None:
        raise InputError(f"{path}: annotation {shown_name(annotation_ids[bad[0]])}: {bad[1]}")
    return AnnotatedSet(
        images=images,
        categories=categories,
        annotations=tuple(tuple(of_image) for of_image in grouped),
        is_federated=any("neg_category_ids" in one for one in rows["images"]),
    )


def validate_same_categories(first: AnnotatedSet, second: AnnotatedSet) -> None:
    """Check that two sets have the same classes, by id and name.

    Raises:
        InputError: the classes differ; the message names the first category that differs, and how many do on each side.
    """
    names, others = ({one.category_id: one.name for one in each.categories} for each in (first, second))
    known, there = set(names.items()), set(others.items())
    if known == there:
        return
    category_id, _ = min(known ^ there)
    raise InputError(
        f"categories must be the same in every annotation file, got for id {category_id}: "
        f"{names.get(category_id, 'none')!r} and {others.get(category_id, 'none')!r}. {len(known - there)} of "
        f"{len(known)} and {len(there - known)} of {len(there)} categories have no partner."
    )


def _refuse_shared_names(images: Iterable[ImageRecord], path: str) -> None:
    """Refuse two images of one file, because names match images with pools and with other files."""
    id_of: dict[str, int | str] = {}
    for image in images:
        name = posixpath.normpath(image.file_name)  # a.jpg and ./a.jpg are one file
        if name in id_of:
            raise InputError(
                f"{path}: images {id_of[name]} and {image.image_id} have the same file_name {image.file_name!r}"
            )
        id_of[name] = image.image_id


def _category(one: dict[str, Any], category_id: int, path: str) -> Category:
    where = f"{path}: category {category_id}"
    if not isinstance(one.get("name"), str):
        raise InputError(f"{where}: name must be a string, got {shown(one.get('name'))}")
    return Category(category_id=category_id, name=one["name"], frequency=check_frequency(one, where))


def _image(
    one: dict[str, Any], image_id: int | str, folders: "_Folders", class_index_of: dict[int, int], path: str
) -> ImageRecord:
    where = f"{path}: image {shown_name(image_id)}"
    height, width = check_image_size(one, where)
    negative, not_exhaustive = (
        frozenset(class_index_of[value] for value in check_categories_of_image(one, name, class_index_of, where))
        for name in ("neg_category_ids", "not_exhaustive_category_ids")
    )
    file_name = _file_name(one, folders, where)
    uri = storage.join(folders.root, file_name)
    if folders.holds_images and (
        storage.climbs_out(file_name) or split_options(uri)[1] != split_options(folders.root)[1]
    ):
        raise InputError(f"{where}: must lie below {folders.root}, got {file_name}")
    return ImageRecord(
        image_id=image_id,
        file_name=file_name,
        uri=uri,
        height=height,
        width=width,
        as_stored=one["as_stored"] if isinstance(one.get("as_stored"), bool) else None,
        negative_classes=negative,
        not_exhaustive_classes=not_exhaustive,
    )


def _file_name(one: dict[str, Any], folders: "_Folders", where: str) -> str:
    for name in ("file_name", "coco_url"):
        if isinstance(one.get(name), str) and one[name]:
            break
    else:
        raise InputError(f"{where}: has neither file_name nor coco_url")
    if "\0" in one[name]:
        raise InputError(f"{where}: {name} must be the name of a file, got {shown(one[name])}")
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
