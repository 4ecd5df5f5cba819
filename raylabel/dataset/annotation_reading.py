"""The strict reader of LVIS and COCO annotation files, as a stream.

One pass reads the file. What a check needs from a later part of the file, such as the size of an image, is kept in a
few numbers per annotation and compared at the end. Texts wait in temporary files, so memory does not hold them.
"""

import json
import posixpath
from array import array
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylabel.dataset.annotated_set import Category
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
    look_up,
    refuse_ids_of_two_types,
)
from raylabel.dataset.image_records import IMAGES, ImageRecord, image_columns, single_chunk
from raylabel.dataset.object_rows import json_list, write_objects
from raylabel.dataset.text_spool import TextSpool
from raylabel.errors import InputError, shown, shown_name
from raylabel.files.file_systems import split_options
from raylabel.files.json_stream import iter_elements
from raylabel.files.paths import climbs_out, join, split
from raylabel.files.reading import exists, open_users_file
from raylabel.masks.segmentation import claim_of, claims_fit, first_bad_runs

_LISTS = ("images", "annotations", "categories")
_RLES_AT_A_TIME = 1000
_IMAGES_PER_BATCH = 10_000


class Reading(NamedTuple):
    """What is known of an annotation file beside the images and objects.

    Attributes:
        categories: classes sorted by category id.
        is_federated: whether any image has `neg_category_ids`.
        folders: whether the folders that URLs of images name exist below the images' root.
    """

    categories: tuple[Category, ...]
    is_federated: bool
    folders: dict[str, bool]


def read_into(path: str, images_root: str | None, *, images_file: Any, objects_file: Any) -> Reading:
    """Read and check an annotation file, and write its images and objects as Arrow files of IMAGES and OBJECTS.

    Args:
        path: local path or URI of the file.
        images_root: see `read_annotations`.
        images_file, objects_file: paths or files to write.

    Raises:
        InputError: see `read_annotations`.
    """
    with TextSpool() as images, TextSpool() as texts:
        annotations, categories = _Annotations(path, texts), list[dict[str, Any]]()
        _read_lists(path, images, annotations, categories)
        classes = _categories(categories, path)
        index_of = {category.category_id: index for index, category in enumerate(classes)}
        folders = _Folders(split(path)[0] if images_root is None else images_root, images_root is not None)
        checked = _Images(path, images, folders, index_of)
        order, starts, class_indices = annotations.grouped(checked.row_of, checked.sizes_hw, index_of)
        ends = zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
        checksums = write_objects(objects_file, (json_list(texts.read_many(order[start:end])) for start, end in ends))
        is_crowd = np.array(annotations.is_crowd, dtype=bool)
        columns = _columns(checked.records(), order, starts, class_indices, is_crowd, checksums)
        with pa.ipc.new_file(images_file, IMAGES) as writer:
            writer.write_batch(single_chunk(pa.Table.from_batches(list(columns), IMAGES)))
    return Reading(classes, checked.is_federated, folders.known)


def _read_lists(path: str, images: TextSpool, annotations: "_Annotations", categories: list[dict[str, Any]]) -> None:
    """Read the file once. What it says of images, annotations and categories goes into the three arguments."""
    found = set[str]()
    with open_users_file(path) as file:
        for element in iter_elements(file, path):
            if element.name is None:
                raise InputError(f"{path}: must be an object with images, annotations and categories")
            if element.name not in _LISTS:
                continue
            found.add(element.name)
            if not element.is_element and (element.value is None or element.value == []):
                continue  # a list that is null counts as empty
            if not element.is_element or not isinstance(element.value, dict):
                raise InputError(f"{path}: {element.name!r} must be a list of objects")
            if element.name == "annotations":
                annotations.add(element.value, element.text)
            elif element.name == "images":
                images.append(element.text)
            else:
                categories.append(element.value)
    annotations.check_runs()
    for name in _LISTS:
        if name not in found:
            raise InputError(f"{path}: has no list {name!r}")
    for name, num in (("images", len(images)), ("categories", len(categories))):
        if not num:
            raise InputError(f"{path}: has no {name}")


class _References:
    """Values of `image_id` or `category_id`, numbered at their first use. The ids may come later in the file."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._numbers: dict[Any, int] = {}
        self.used = array("q")
        """The number that each annotation has."""

    def add(self, entry: dict[str, Any], where: str) -> None:
        value = entry.get(self._name)
        if not isinstance(value, int | float | str) or isinstance(value, bool):
            look_up(entry, self._name, {}, where)  # refuses it
        self.used.append(self._numbers.setdefault(value, len(self._numbers)))

    def places(self, known: dict[Any, int]) -> NDArray[np.int64]:
        """Return the place of each annotation's value in `known`, -1 if it is unknown."""
        places = np.array([known.get(value, -1) for value in self._numbers], dtype=np.int64)
        return places[np.array(self.used, dtype=np.int64)]


class _Annotations:
    """The annotations of a file that is being read. The size of their image and the ids are checked at the end."""

    def __init__(self, path: str, texts: TextSpool) -> None:
        self._path, self._texts = path, texts
        self._ids = set[int | str]()
        self._images, self._categories = _References("image_id"), _References("category_id")
        self._heights, self._widths, self._reaches = array("i"), array("i"), array("d")
        self.is_crowd = array("b")
        self._rles, self._names = list[Any](), list[str]()

    def add(self, one: dict[str, Any], text: str) -> None:
        """Check an annotation as far as it tells alone, and keep it."""
        annotation_id = check_image_id(one.get("id"), f"{self._path}: annotation number {len(self._texts)}")
        if annotation_id in self._ids:
            raise InputError(f"{self._path}: annotation id {shown_name(annotation_id)} is given twice")
        self._ids.add(annotation_id)
        where = self._where(annotation_id)
        self._images.add(one, where)
        self._categories.add(one, where)
        check_crowd_and_area(one, where)
        if one.get("bbox") is not None:
            check_box(one["bbox"], where)
        claim = claim_of(one.get("segmentation"))
        # What no image can have is checked again when the image is known, for the message.
        (height, width), reach = ((0, 0), np.inf) if claim is None else (claim.size_hw, claim.reach)
        if claim is not None and height:
            if claim.segmentation is not one["segmentation"]:  # its size was given as floats
                text = json.dumps(one | {"segmentation": claim.segmentation})
            self._rles.append(claim.segmentation)
            self._names.append(where)
            if len(self._rles) == _RLES_AT_A_TIME:
                self.check_runs()
        self._heights.append(height)
        self._widths.append(width)
        self._reaches.append(reach)
        self.is_crowd.append(bool(one.get("iscrowd")))
        self._texts.append(text)

    def check_runs(self) -> None:
        """Check the compressed runs of the RLEs that were not checked yet, many at once."""
        bad = first_bad_runs(self._rles)
        if bad is not None:
            raise InputError(f"{self._names[bad[0]]}: {bad[1]}")
        self._rles.clear()
        self._names.clear()

    def grouped(
        self, row_of: dict[int | str, int], sizes_hw: NDArray[np.int64], index_of: dict[int, int]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Check all annotations against images and categories, and group them by image.

        Returns:
            The annotations in the order of their images, each in the file's order; the place where each image starts
            in this order; the class index of each annotation in the file's order.
        """
        rows, classes = self._images.places(row_of), self._categories.places(index_of)
        claimed_hw = np.stack([np.array(self._heights), np.array(self._widths)], axis=1).reshape(-1, 2)
        fits = claims_fit(claimed_hw, np.array(self._reaches, dtype=np.float64), sizes_hw[rows])
        for place in np.flatnonzero((rows < 0) | (classes < 0) | ~fits).tolist():
            self._refuse(json.loads(self._texts.read(place)), row_of, sizes_hw, index_of)
        order = np.argsort(rows, kind="stable")
        return order, np.searchsorted(rows[order], np.arange(len(sizes_hw) + 1)), classes

    def _refuse(
        self, one: dict[str, Any], row_of: dict[int | str, int], sizes_hw: NDArray[np.int64], index_of: dict[int, int]
    ) -> None:
        where = self._where(one["id"])
        height, width = sizes_hw[look_up(one, "image_id", row_of, where)].tolist()
        look_up(one, "category_id", index_of, where)
        check_mask(one.get("segmentation"), (height, width), where)
        raise AssertionError(f"{where}: must be refused")

    def _where(self, annotation_id: int | str) -> str:
        return f"{self._path}: annotation {shown_name(annotation_id)}"


def _categories(rows: list[dict[str, Any]], path: str) -> tuple[Category, ...]:
    of_id = by_id(rows, "category", path, check_category_id)
    return tuple(_category(of_id[category_id], category_id, path) for category_id in sorted(of_id))


def _category(one: dict[str, Any], category_id: int, path: str) -> Category:
    where = f"{path}: category {category_id}"
    if not isinstance(one.get("name"), str):
        raise InputError(f"{where}: name must be a string, got {shown(one.get('name'))}")
    return Category(category_id=category_id, name=one["name"], frequency=check_frequency(one, where))


class _Images:
    """The images of a file, checked.

    Attributes:
        row_of: row by image id.
        sizes_hw: (N, 2) heights and widths.
        is_federated: whether any image has `neg_category_ids`.
    """

    def __init__(self, path: str, texts: TextSpool, folders: "_Folders", index_of: dict[int, int]) -> None:
        self._path, self._texts, self._folders, self._index_of = path, texts, folders, index_of
        self.row_of: dict[int | str, int] = {}
        self.is_federated = False
        sizes_hw, id_of = array("q"), dict[str, int | str]()
        for row, one in enumerate(self._parsed()):
            image_id = check_image_id(one.get("id"), f"{path}: image number {row}")
            if image_id in self.row_of:
                raise InputError(f"{path}: image id {shown_name(image_id)} is given twice")
            self.row_of[image_id] = row
            self.is_federated |= "neg_category_ids" in one
            image = self._record(one)
            sizes_hw.extend(image.image_size_hw)
            name = posixpath.normpath(image.file_name)  # a.jpg and ./a.jpg are one file
            if name in id_of:
                # Names match images with pools and with other files.
                raise InputError(
                    f"{path}: images {id_of[name]} and {image_id} have the same file_name {image.file_name!r}"
                )
            id_of[name] = image_id
        refuse_ids_of_two_types(self.row_of, path)
        self.sizes_hw = np.array(sizes_hw).reshape(-1, 2)

    def records(self) -> Iterator[ImageRecord]:
        """Parse the images again, because their columns are made when their objects are known."""
        return map(self._record, self._parsed())

    def _parsed(self) -> Iterator[dict[str, Any]]:
        return (json.loads(self._texts.read(row)) for row in range(len(self._texts)))

    def _record(self, one: dict[str, Any]) -> ImageRecord:
        where = f"{self._path}: image {shown_name(one['id'])}"
        height, width = check_image_size(one, where)
        negative, not_exhaustive = (
            frozenset(self._index_of[value] for value in check_categories_of_image(one, name, self._index_of, where))
            for name in ("neg_category_ids", "not_exhaustive_category_ids")
        )
        file_name, folders = _file_name(one, self._folders, where), self._folders
        uri = join(folders.root, file_name)
        if folders.holds_images and (climbs_out(file_name) or split_options(uri)[1] != split_options(folders.root)[1]):
            raise InputError(f"{where}: must lie below {folders.root}, got {file_name}")
        return ImageRecord(
            image_id=one["id"],
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
        self.known: dict[str, bool] = {}

    def has(self, name: str) -> bool:
        if name not in self.known:
            self.known[name] = bool(name) and exists(join(self.root, name))
        return self.known[name]


def _columns(
    images: Iterator[ImageRecord],
    order: NDArray[np.int64],
    starts: NDArray[np.int64],
    class_indices: NDArray[np.int64],
    is_crowd: NDArray[np.bool_],
    checksums: NDArray[np.uint32],
) -> Iterator[pa.RecordBatch]:
    """Yield the columns of the images, many images at a time."""
    first = 0
    while batch := list(islice(images, _IMAGES_PER_BATCH)):
        rows = range(first, first + len(batch))
        places = [order[starts[row] : starts[row + 1]] for row in rows]
        objects = [(class_indices[of_image], is_crowd[of_image]) for of_image in places]
        yield image_columns(batch, objects, checksums[rows.start : rows.stop].tolist())
        first = rows.stop
