"""An annotation file read whole and kept as dicts: the reading that columns must equal, field by field."""

import posixpath
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
from raylabel.dataset.image_records import ImageRecord
from raylabel.errors import InputError, shown, shown_name
from raylabel.files.json_files import read_json
from raylabel.masks.segmentation import first_bad_runs


@dataclass
class PlainSet:
    """Images, category ids, and the annotation objects of each image."""

    images: list[ImageRecord]
    category_ids: list[int]
    annotations: list[list[dict[str, Any]]]
    is_federated: bool

    def classes(self, row: int, *, with_crowds: bool = False) -> list[int]:
        """Class indices of the objects of an image."""
        counted = [one for one in self.annotations[row] if with_crowds or not one.get("iscrowd")]
        return [self.category_ids.index(one["category_id"]) for one in counted]

    def image_counts(self) -> list[int]:
        """Images per class."""
        found = Counter(one for row in range(len(self.images)) for one in set(self.classes(row)))
        return [found[index] for index in range(len(self.category_ids))]

    def instance_counts(self) -> list[int]:
        """Objects per class."""
        found = Counter(one for row in range(len(self.images)) for one in self.classes(row))
        return [found[index] for index in range(len(self.category_ids))]

    def repeat_factors(self, threshold: float) -> NDArray[np.float64]:
        """LVIS's repeat factors, by their formula."""
        counts, num_images = self.image_counts(), len(self.images)
        of_class = [max(1.0, (threshold * num_images / max(count, 1)) ** 0.5) for count in counts]
        return np.array([max([1.0, *(of_class[one] for one in self.classes(row))]) for row in range(num_images)])


def read_plainly(path: Path) -> PlainSet:
    """Read a file whose images all have a `file_name`.

    Raises:
        InputError: as `read_annotations`.
    """
    where, content = str(path), read_json(str(path))
    images, annotations, categories = (
        listed_objects(content, name, where) for name in ("images", "annotations", "categories")
    )
    if not images:
        raise InputError(f"{where}: has no images")
    if not categories:
        raise InputError(f"{where}: has no categories")
    of_id = by_id(categories, "category", where, check_category_id)
    for category_id in sorted(of_id):
        name = of_id[category_id].get("name")
        if not isinstance(name, str):
            raise InputError(f"{where}: category {category_id}: name must be a string, got {shown(name)}")
        check_frequency(of_id[category_id], f"{where}: category {category_id}")
    index_of = {category_id: index for index, category_id in enumerate(sorted(of_id))}
    records = [
        _record(one, image_id, index_of, where)
        for image_id, one in by_id(images, "image", where, check_image_id).items()
    ]
    refuse_ids_of_two_types([one.image_id for one in records], where)
    id_of: dict[str, int | str] = {}
    for one in records:
        name = posixpath.normpath(one.file_name)
        if name in id_of:
            same = f"images {id_of[name]} and {one.image_id} have the same file_name {one.file_name!r}"
            raise InputError(f"{where}: {same}")
        id_of[name] = one.image_id
    row_of = {one.image_id: row for row, one in enumerate(records)}
    grouped: list[list[dict[str, Any]]] = [[] for _ in records]
    masks, names = [], []
    for annotation_id, one in by_id(annotations, "annotation", where, check_image_id).items():
        names.append(f"{where}: annotation {shown_name(annotation_id)}")
        row = look_up(one, "image_id", row_of, names[-1])
        look_up(one, "category_id", index_of, names[-1])
        check_crowd_and_area(one, names[-1])
        if one.get("bbox") is not None:
            check_box(one["bbox"], names[-1])
        masks.append(check_mask(one.get("segmentation"), records[row].image_size_hw, names[-1]))
        grouped[row].append(one | {"segmentation": masks[-1]})
    bad = first_bad_runs(masks)
    if bad is not None:
        raise InputError(f"{names[bad[0]]}: {bad[1]}")
    return PlainSet(records, sorted(of_id), grouped, any("neg_category_ids" in one for one in images))


def _record(one: dict[str, Any], image_id: int | str, index_of: dict[int, int], where: str) -> ImageRecord:
    where = f"{where}: image {shown_name(image_id)}"
    height, width = check_image_size(one, where)
    negative, not_exhaustive = (
        frozenset(index_of[value] for value in check_categories_of_image(one, name, index_of, where))
        for name in ("neg_category_ids", "not_exhaustive_category_ids")
    )
    name = one.get("file_name")
    if not isinstance(name, str) or not name:
        raise InputError(f"{where}: has neither file_name nor coco_url")
    if "\0" in name:
        raise InputError(f"{where}: file_name must be the name of a file, got {shown(name)}")
    return ImageRecord(
        image_id=image_id,
        file_name=name,
        uri="",
        height=height,
        width=width,
        as_stored=one["as_stored"] if isinstance(one.get("as_stored"), bool) else None,
        negative_classes=negative,
        not_exhaustive_classes=not_exhaustive,
    )
