"""Checks of results and annotations before they are evaluated: every fault is one line that names the entry.

Fields that an evaluation does not need may hold anything or be absent.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

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
from raylabel.dataset.frequency import FrequencyGroup
from raylabel.errors import InputError, shown_name
from raylabel.masks.rle import mask_areas
from raylabel.masks.segmentation import first_bad_runs, rle_from_segmentation, rle_size

IouType = Literal["segm", "bbox"]

_FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")


@dataclass(frozen=True, kw_only=True)
class CheckedAnnotations:
    """Ground truth in hotcoco's form.

    Images and categories are numbered in the order of their ids, because hotcoco takes no negative ids and no strings.

    Attributes:
        dataset: images, annotations and categories with these numbers.
        image_numbers: image id -> number.
        file_names: name of each image in the order of `image_numbers`, None if the file does not tell.
        category_numbers: category id -> number.
        sizes_hw: image number -> height and width, if the file gives them or if an RLE does.
        is_federated: whether the data are LVIS data.
    """

    dataset: dict[str, Any]
    image_numbers: dict[int | str, int]
    file_names: list[str | None]
    category_numbers: dict[int, int]
    sizes_hw: dict[int, tuple[int, int]]
    is_federated: bool


def checked_annotations(
    content: Any,
    iou_type: IouType,
    frequency_groups: Mapping[int, str] | None,
    where: str,
    *,
    image_numbers: Mapping[int | str, int] | None = None,
) -> CheckedAnnotations:
    """Check ground truth and return it in hotcoco's form.

    Args:
        content: COCO or LVIS content.
        iou_type, frequency_groups: see `evaluate_results`.
        where: name of the content, for messages.
        image_numbers: `numbered` ids of a larger set that the images belong to. None: the images are the set.
    """
    rows = {name: listed_objects(content, name, where) for name in ("images", "annotations", "categories")}
    if not rows["images"]:
        raise InputError(f"{where}: has no images")
    images = by_id(rows["images"], "image", where, check_image_id)
    categories = by_id(rows["categories"], "category", where, check_category_id)
    refuse_ids_of_two_types(images, where)
    known = numbered(images) if image_numbers is None else image_numbers
    image_numbers = dict(sorted(((one, known[one]) for one in images), key=lambda pair: pair[1]))
    category_numbers: dict[int, int] = numbered(categories)
    is_federated = any(_FEDERATED[0] in image for image in rows["images"])
    sizes_hw = {
        image_numbers[image_id]: check_image_size(image, _image_name(image_id, where))
        for image_id, image in images.items()
        if image.get("height") is not None or image.get("width") is not None
    }
    ground_truth = [
        _ground_truth(number, one, image_numbers, category_numbers, sizes_hw, iou_type, where)
        for number, one in enumerate(rows["annotations"], start=1)
    ]
    bad = first_bad_runs([one.get("segmentation") for one in ground_truth])
    if bad is not None:
        raise InputError(f"{_annotation_name(bad[0], rows['annotations'][bad[0]], where)}: {bad[1]}")
    for row in ground_truth:
        if "area" not in row:
            row["area"] = _area(row, sizes_hw)
    dataset = {
        "images": [
            {"id": number, "height": height, "width": width}
            | (
                _verified_categories(images[image_id], category_numbers, _image_name(image_id, where))
                if is_federated
                else {}
            )
            for image_id, number in image_numbers.items()
            for height, width in [sizes_hw.get(number, (0, 0))]
        ],
        "annotations": ground_truth,
        "categories": [
            _category(number, _frequency(category_id, categories, frequency_groups, where) if is_federated else None)
            for category_id, number in category_numbers.items()
        ],
    }
    return CheckedAnnotations(
        dataset=dataset,
        image_numbers=image_numbers,
        file_names=[_file_name(images[image_id]) for image_id in image_numbers],
        category_numbers=category_numbers,
        sizes_hw=sizes_hw,
        is_federated=is_federated,
    )


def numbered(ids: Iterable[Any]) -> dict[Any, int]:
    """Number ids from 1 in sorted order, integers before strings."""
    ordered = sorted(ids, key=lambda one: (isinstance(one, str), one))
    return {one: number for number, one in enumerate(ordered, start=1)}


def _file_name(image: Mapping[str, Any]) -> str | None:
    name = image.get("file_name")
    return name if isinstance(name, str) else None


def _image_name(image_id: int | str, where: str) -> str:
    return f"{where}: image {shown_name(image_id)}"


def _annotation_name(row: int, one: Mapping[str, Any], where: str) -> str:
    return f"{where}: annotation {shown_name(one['id']) if 'id' in one else f'number {row}'}"


def _ground_truth(
    number: int,
    one: dict[str, Any],
    image_numbers: Mapping[int | str, int],
    category_numbers: Mapping[int, int],
    sizes_hw: dict[int, tuple[int, int]],
    iou_type: IouType,
    where: str,
) -> dict[str, Any]:
    """Check an annotation. The first RLE of an image without a size enters its size into `sizes_hw`."""
    # Annotations get new ids, because pycocotools takes id 0 for "not matched".
    name = _annotation_name(number - 1, one, where)
    image = look_up(one, "image_id", image_numbers, name)
    row = {"id": number, "image_id": image, "category_id": look_up(one, "category_id", category_numbers, name)}
    check_crowd_and_area(one, name)
    row["iscrowd"] = int(one.get("iscrowd") or 0)
    segmentation, box, has_area = one.get("segmentation"), one.get("bbox"), one.get("area") is not None
    if has_area:
        row["area"] = one["area"]
    if iou_type == "segm" and not segmentation:
        raise InputError(f"{name}: has no segmentation, which iou_type 'segm' needs")
    if iou_type == "bbox" and not box:
        # hotcoco would count it as a box that overlaps nothing.
        raise InputError(f"{name}: has no bbox, which iou_type 'bbox' needs")
    if box:
        check_box(box, name)
        row["bbox"] = box
    if segmentation and (iou_type == "segm" or not has_area):
        row["segmentation"] = check_mask(segmentation, sizes_hw.get(image), name)
        if size_hw := rle_size(row["segmentation"]):
            sizes_hw.setdefault(image, size_hw)
    return row


def _area(row: dict[str, Any], sizes_hw: Mapping[int, tuple[int, int]]) -> float:
    if "segmentation" in row:
        return float(
            mask_areas([rle_from_segmentation(row["segmentation"], sizes_hw[row["image_id"]], check=False)])[0]
        )
    return float(row["bbox"][2] * row["bbox"][3])


def _verified_categories(image: dict[str, Any], numbers: Mapping[int, int], where: str) -> dict[str, list[int]]:
    return {
        name: [numbers[one] for one in check_categories_of_image(image, name, numbers, where)] for name in _FEDERATED
    }


def _frequency(
    category_id: int,
    categories: Mapping[int, dict[str, Any]],
    frequency_groups: Mapping[int, str] | None,
    where: str,
) -> FrequencyGroup | str | None:
    if frequency_groups is not None:
        return frequency_groups.get(category_id)
    return check_frequency(categories[category_id], f"{where}: category {category_id}")


def _category(number: int, frequency: FrequencyGroup | str | None) -> dict[str, Any]:
    row: dict[str, Any] = {"id": number, "name": str(number)}
    return row | ({"frequency": str(frequency)} if frequency is not None else {})
