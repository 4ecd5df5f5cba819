"""Checks of results and annotations before they are evaluated: every fault is one line that names the entry."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from raylabel.dataset.annotations import refuse_ids_of_two_types
from raylabel.errors import InputError
from raylabel.masks.rle import Rle, first_bad_rle, mask_areas, rle_from_segmentation

IouType = Literal["segm", "bbox"]


def _rows(content: Any, name: str, where: str) -> list[dict[str, Any]]:
    if not isinstance(content, dict):
        raise InputError(f"{where}: must be an object with images, annotations and categories")
    if name not in content:
        raise InputError(f"{where}: has no list {name!r}")
    rows = content[name] or []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{where}: {name!r} must be a list of objects")
    return rows


def normalised_annotations(
    content: Any, iou_type: IouType, frequency_groups: Mapping[int, str] | None, where: str
) -> tuple[dict[str, Any], dict[int | str, int], bool]:
    """Return the data set in hotcoco's form, the number of each image id, and whether the data are federated."""
    images, annotations, categories = (_rows(content, name, where) for name in ("images", "annotations", "categories"))
    if not images:
        raise InputError(f"{where}: has no images")
    image_numbers = _image_numbers(images, where)
    category_ids = _category_ids(categories, where)
    is_federated = any("neg_category_ids" in image for image in images)
    sizes = {image_numbers[image["id"]]: (image.get("height"), image.get("width")) for image in images}
    ground_truth = []
    for number, one in enumerate(annotations, start=1):
        label = f"{where}: annotation {one.get('id', f'number {number - 1}')}"
        image_number = _number_of(one.get("image_id"), image_numbers, label)
        _check_category(one.get("category_id"), category_ids, label)
        _check_segmentation(one.get("segmentation"), sizes[image_number], label, is_needed=iou_type == "segm")
        _check_box(one.get("bbox"), label, is_needed=iou_type == "bbox")
        # Annotations get new ids, because pycocotools takes id 0 for "not matched".
        row = {"id": number, "image_id": image_number, "category_id": one["category_id"]}
        row |= {"iscrowd": one.get("iscrowd") or 0, "segmentation": one.get("segmentation"), "bbox": one.get("bbox")}
        row["area"] = one["area"] if one.get("area") is not None else _area(row, sizes[image_number], label)
        ground_truth.append({name: value for name, value in row.items() if value is not None})
    federated_names = ("neg_category_ids", "not_exhaustive_category_ids") if is_federated else ()
    dataset = {
        "images": [
            {"id": image_numbers[image["id"]], "height": image.get("height") or 0, "width": image.get("width") or 0}
            | {name: image.get(name) or [] for name in federated_names}
            for image in images
        ],
        "annotations": ground_truth,
        "categories": [_category(one, frequency_groups) for one in categories],
    }
    return dataset, image_numbers, is_federated


def _category(one: dict[str, Any], frequency_groups: Mapping[int, str] | None) -> dict[str, Any]:
    frequency = one.get("frequency") if frequency_groups is None else frequency_groups.get(one["id"])
    row = {"id": one["id"], "name": str(one.get("name", one["id"]))}
    return row | ({"frequency": frequency} if frequency is not None else {})


def _image_numbers(images: list[dict[str, Any]], where: str) -> dict[int | str, int]:
    """Map image ids to hotcoco's numbers: integers keep their value, other ids get their place in sorted order."""
    ids = [image.get("id") for image in images]
    for index, one in enumerate(ids):
        if not _is_id(one):
            raise InputError(f"{where}: image number {index}: id must be an integer or a string, got {one!r}")
    _refuse_duplicates(ids, "image", where)
    known: list[int | str] = [one for one in ids if isinstance(one, int | str)]
    refuse_ids_of_two_types(known, where)
    if all(isinstance(one, int) and one >= 0 for one in known):
        return {one: int(one) for one in known}
    return {one: number for number, one in enumerate(sorted(known, key=lambda one: (isinstance(one, str), one)))}


def _category_ids(categories: list[dict[str, Any]], where: str) -> set[int]:
    ids = [one.get("id") for one in categories]
    for index, one in enumerate(ids):
        if not isinstance(one, int) or isinstance(one, bool) or one < 0:
            raise InputError(f"{where}: category number {index}: id must be an integer >= 0, got {one!r}")
    _refuse_duplicates(ids, "category", where)
    return {one for one in ids if isinstance(one, int)}


def _refuse_duplicates(ids: list[Any], kind: str, where: str) -> None:
    [(one, count)] = Counter(ids).most_common(1) or [(None, 0)]
    if count > 1:
        raise InputError(f"{where}: {kind} id {one} is given {count} times")


def _number_of(image_id: Any, image_numbers: dict[int | str, int], label: str) -> int:
    if not _is_id(image_id) or image_id not in image_numbers:
        raise InputError(f"{label}: unknown image id {image_id!r}")
    return image_numbers[image_id]


def _check_category(category_id: Any, category_ids: set[int], label: str) -> None:
    if not isinstance(category_id, int) or category_id not in category_ids:
        raise InputError(f"{label}: unknown category id {category_id!r}")


def _area(row: dict[str, Any], image_size_hw: tuple[Any, Any], label: str) -> float:
    if row["segmentation"]:
        if not all(isinstance(side, int) and side > 0 for side in image_size_hw):
            raise InputError(f"{label}: its image has no height and width")
        try:
            return float(mask_areas([rle_from_segmentation(row["segmentation"], image_size_hw)])[0])
        except ValueError as error:
            raise InputError(f"{label}: {error}") from None
    box = row["bbox"]
    if isinstance(box, list) and len(box) == 4 and all(isinstance(side, int | float) for side in box):
        return float(box[2] * box[3])
    raise InputError(f"{label}: has neither a segmentation nor a bbox")


def normalised_results(
    rows: Any, dataset: dict[str, Any], image_numbers: dict[int | str, int], iou_type: IouType, *, where: str
) -> list[dict[str, Any]]:
    """Return the detections in hotcoco's form, with the numbers of their images."""
    if not isinstance(rows, list):
        raise InputError(f"{where}: must be a list of detections, got {type(rows).__name__}")
    _refuse_unknown_images(rows, image_numbers, where)
    category_ids = {one["id"] for one in dataset["categories"]}
    sizes = {image["id"]: (image["height"], image["width"]) for image in dataset["images"]}
    detections = []
    for index, one in enumerate(rows):
        label = f"{where}: detection {index}"
        if not isinstance(one, dict):
            raise InputError(f"{label}: must be an object, got {type(one).__name__}")
        image_number = image_numbers[one["image_id"]]
        _check_category(one.get("category_id"), category_ids, label)
        score = one.get("score")
        if not isinstance(score, int | float) or not math.isfinite(score):
            raise InputError(f"{label}: score must be a finite number, got {score!r}")
        segmentation, box = one.get("segmentation"), one.get("bbox")
        if not segmentation and not box:
            raise InputError(f"{label}: has neither segmentation nor bbox")
        _check_segmentation(segmentation, sizes[image_number], label, is_needed=iou_type == "segm")
        _check_box(box, label, is_needed=iou_type == "bbox")
        row = {"image_id": image_number, "category_id": one["category_id"], "score": float(score)}
        row |= {"segmentation": segmentation} if segmentation else {}
        detections.append(row | ({"bbox": box} if box else {}))
    _refuse_damaged_masks(detections, where)
    return detections


def _refuse_unknown_images(rows: list[Any], image_numbers: dict[int | str, int], where: str) -> None:
    """Refuse detections of images that the annotations lack, with their number."""
    unknown = [
        index
        for index, one in enumerate(rows)
        if isinstance(one, dict) and not (_is_id(one.get("image_id")) and one["image_id"] in image_numbers)
    ]
    if unknown:
        image_id = rows[unknown[0]].get("image_id")
        raise InputError(
            f"{where}: detection {unknown[0]}: unknown image id {image_id!r}. {len(unknown)} of {len(rows)} detections "
            "name an image that the annotations lack."
        )


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _refuse_damaged_masks(detections: list[dict[str, Any]], where: str) -> None:
    """Refuse compressed RLEs that hold no mask: hotcoco reads them as empty, and pycocotools may read for ever."""
    rows, rles = list[int](), list[Rle]()
    for row, one in enumerate(detections):
        mask = one.get("segmentation")
        if isinstance(mask, dict) and isinstance(mask["counts"], str | bytes) and mask.get("size"):
            counts = mask["counts"].encode() if isinstance(mask["counts"], str) else mask["counts"]
            rows.append(row)
            rles.append(Rle(size=mask["size"], counts=counts))
    if bad := first_bad_rle(rles):
        place, reason = bad
        raise InputError(f"{where}: detection {rows[place]}: {reason}")


def _check_segmentation(segmentation: Any, image_size_hw: tuple[Any, Any], label: str, *, is_needed: bool) -> None:
    """Refuse a form of mask that hotcoco would silently read as empty."""
    if not segmentation:
        if is_needed:
            raise InputError(f"{label}: has no segmentation, which iou_type 'segm' needs")
    elif isinstance(segmentation, dict):
        size, height_width = segmentation.get("size"), list(image_size_hw)
        if all(height_width) and size != height_width:
            raise InputError(f"{label}: RLE size must be {height_width} like its image, got {size}")
        if not isinstance(segmentation.get("counts"), str | bytes | list):
            raise InputError(f"{label}: RLE has no counts")
    elif not isinstance(segmentation, list):
        raise InputError(f"{label}: segmentation must be polygons or RLE, got {type(segmentation).__name__}")
    else:
        for polygon in segmentation:
            if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
                raise InputError(f"{label}: a polygon must be a list of at least 3 points (6 numbers), got {polygon!r}")


def _check_box(box: Any, label: str, *, is_needed: bool) -> None:
    """Refuse a missing box, because hotcoco would count it as one that overlaps nothing."""
    if is_needed and not box:
        raise InputError(f"{label}: has no bbox, which iou_type 'bbox' needs")
