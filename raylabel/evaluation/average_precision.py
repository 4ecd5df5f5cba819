"""Average precision and recall of a results file, by COCO's and LVIS's protocols."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from hotcoco import COCO, COCOeval, LVISeval, LVISResults
from numpy.typing import NDArray

from raylabel.dataset.frequency import FrequencyGroup
from raylabel.errors import InputError
from raylabel.files.storage import read_json
from raylabel.masks.rle import Rle, first_bad_rle, mask_areas, rle_from_segmentation

IouType = Literal["segm", "bbox"]

LVIS_MAX_DETECTIONS = 300
"""Detections per image, over all categories, that LVIS's protocol evaluates."""

MIN_RESULT_SCORE = 0.01
"""Smallest score of a result. It is low because AP depends on the whole ranking."""

MAX_RESULTS_PER_IMAGE = LVIS_MAX_DETECTIONS
"""Results per image. An object has one result per class that it may be."""

_GROUP_METRICS = {group: f"AP{group}" for group in FrequencyGroup}


def evaluate_results(
    annotations: str | Path | dict[str, Any],
    results: str | Path | list[dict[str, Any]],
    *,
    iou_type: IouType = "segm",
    frequency_groups: Mapping[int, str] | None = None,
) -> dict[str, float | None]:
    """Compute AP and AR of detections, with the same values as pycocotools (COCO data) and lvis-api (LVIS data).

    Data are LVIS data if an image has `neg_category_ids`. LVIS data give AP, AP50, AP75, APs, APm, APl, APr, APc,
    APf, AR@300, ARs@300, ARm@300 and ARl@300. COCO data give AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs,
    ARm and ARl. A `null` list counts as empty. Image ids may be integers or strings. A missing `area` is computed
    from the mask.

    The size of a detection decides whether it counts for APs, APm or APl. The size is the area of the detection's
    `bbox`, even with `iou_type="segm"`: both references do so. A detection without `bbox` has the size of its mask.

    Args:
        annotations: COCO or LVIS JSON: path, URI or content.
        results: list of detections `{"image_id", "category_id", "score", "segmentation" or "bbox"}`: path, URI or
            content.
        iou_type: "segm" compares masks, "bbox" compares boxes.
        frequency_groups: category id -> "r", "c" or "f", in place of the categories' `frequency`. COCO data have no
            such groups; this argument adds APr, APc and APf, the mean AP of each group's classes.

    Returns:
        Figure name -> value in [0, 1]. None means no ground truth of that kind; the references give -1.

    Raises:
        InputError: a file is missing, not JSON or of another form. Or a detection names an unknown image or category,
            has no finite score, lacks what `iou_type` needs, or its RLE has another size than its image.

    Examples:
        >>> import raylabel as rl
        >>> square = [[2, 2, 10, 2, 10, 10, 2, 10]]
        >>> annotations = {
        ...     "images": [{"id": 1, "height": 20, "width": 30}],
        ...     "categories": [{"id": 3, "name": "cat"}],
        ...     "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "segmentation": square}],
        ... }
        >>> results = [{"image_id": 1, "category_id": 3, "score": 0.9, "segmentation": square}]
        >>> figures = rl.evaluate_results(annotations, results)
        >>> round(figures["AP50"], 3), figures["APl"]
        (1.0, None)
    """
    return check_results(annotations, results, iou_type=iou_type, frequency_groups=frequency_groups).figures()


@dataclass(frozen=True)
class CheckedResults:
    """Checked ground truth and detections, in the form that hotcoco reads.

    Attributes:
        dataset: images, annotations and categories. Image ids are replaced by numbers.
        detections: detections with the same image numbers.
        iou_type: "segm" or "bbox".
        is_federated: whether LVIS's protocol applies.
        frequency_groups: see `evaluate_results`.
        names: names of annotations and results, for messages.
    """

    dataset: dict[str, Any]
    detections: list[dict[str, Any]]
    iou_type: IouType
    is_federated: bool
    frequency_groups: Mapping[int, str] | None
    names: tuple[str, str]

    @property
    def image_numbers(self) -> list[int]:
        """Numbers of all images."""
        return [image["id"] for image in self.dataset["images"]]

    def of_images(self, image_numbers: Collection[int]) -> "CheckedResults":
        """Keep some images with their annotations and detections."""
        dataset = self.dataset | {
            "images": [image for image in self.dataset["images"] if image["id"] in image_numbers],
            "annotations": [one for one in self.dataset["annotations"] if one["image_id"] in image_numbers],
        }
        detections = [one for one in self.detections if one["image_id"] in image_numbers]
        return replace(self, dataset=dataset, detections=detections)

    def figures(self) -> dict[str, float | None]:
        """Compute the figures that `evaluate_results` returns."""
        try:
            truth = COCO(self.dataset)
            if self.is_federated:
                results = LVISResults(truth, self.detections, LVIS_MAX_DETECTIONS)
                evaluation = LVISeval(truth, results, self.iou_type)
            else:
                evaluation = COCOeval(truth, truth.load_res(self.detections), self.iou_type)
            evaluation.evaluate()
        except ValueError as error:
            raise InputError(f"{' with '.join(self.names)}: {' '.join(str(error).split())}") from error
        evaluation.accumulate()
        evaluation.summary_lines()  # because summarize() would also print the figures
        figures = evaluation.get_results()
        metrics = {name: _figure(figures[name]) for name in evaluation.metric_keys()}
        if self.frequency_groups is not None and not self.is_federated:
            metrics |= _group_precision(evaluation, self.frequency_groups)
        return metrics


def check_results(
    annotations: str | Path | dict[str, Any],
    results: str | Path | list[dict[str, Any]],
    *,
    iou_type: IouType = "segm",
    frequency_groups: Mapping[int, str] | None = None,
) -> CheckedResults:
    """Read and check results and annotations. Arguments and errors are those of `evaluate_results`."""
    if iou_type not in ("segm", "bbox"):
        raise InputError(f"iou_type must be segm or bbox, got {iou_type!r}")
    annotations = str(annotations) if isinstance(annotations, Path) else annotations
    results = str(results) if isinstance(results, Path) else results
    where = annotations if isinstance(annotations, str) else "annotations"
    content = read_json(annotations) if isinstance(annotations, str) else annotations
    dataset, image_numbers, is_federated = _normalised_annotations(content, iou_type, frequency_groups, where)
    results_where = results if isinstance(results, str) else "results"
    rows = read_json(results) if isinstance(results, str) else results
    detections = _normalised_results(rows, dataset, image_numbers, iou_type, where=results_where)
    return CheckedResults(dataset, detections, iou_type, is_federated, frequency_groups, (where, results_where))


def to_results(
    image_id: int | str,
    *,
    class_indices: NDArray[np.integer[Any]],
    scores: NDArray[np.floating[Any]],
    masks: Sequence[Rle],
    category_ids: NDArray[np.integer[Any]],
    boxes_xyxy: NDArray[np.floating[Any]] | None = None,
) -> list[dict[str, Any]]:
    """Make the rows of a COCO results file for one image, ready for JSON.

    Args:
        image_id: id in the annotation file.
        class_indices: (N,) 0-based.
        scores: (N,) in [0, 1].
        masks: N RLEs of the image's size.
        category_ids: (num_classes,) class index -> category id.
        boxes_xyxy: (N, 4) pixels, written as `bbox` (x, y, width, height). Leave it out for mask AP, because
            evaluators take the box's area for the size of the object.
    """
    rows: list[dict[str, Any]] = [
        {
            "image_id": image_id,
            "category_id": int(category_ids[class_indices[row]]),
            "score": float(scores[row]),
            "segmentation": {"size": [int(side) for side in mask["size"]], "counts": mask["counts"].decode()},
        }
        for row, mask in enumerate(masks)
    ]
    if boxes_xyxy is not None:
        for result, (x0, y0, x1, y1) in zip(rows, np.asarray(boxes_xyxy, np.float64).tolist(), strict=True):
            result["bbox"] = [x0, y0, x1 - x0, y1 - y0]
    return rows


def results_of_image(
    image_id: int | str,
    masks: Sequence[Rle],
    soft_vectors: NDArray[np.floating[Any]],
    category_ids: NDArray[np.integer[Any]],
) -> list[dict[str, Any]]:
    """Make one result per object and class that the object may be, as is usual for AP.

    Only the MAX_RESULTS_PER_IMAGE best scores are kept.

    Args:
        image_id: id in the annotation file.
        masks: N RLEs.
        soft_vectors: (N, num_classes + 1), background last.
        category_ids: (num_classes,) class index -> category id.
    """
    objects, class_indices = np.nonzero(soft_vectors[:, :-1] >= MIN_RESULT_SCORE)
    scores = soft_vectors[objects, class_indices]
    best = np.argsort(-scores, kind="stable")[:MAX_RESULTS_PER_IMAGE]
    return to_results(
        image_id,
        class_indices=class_indices[best],
        scores=scores[best],
        masks=[masks[row] for row in objects[best]],
        category_ids=category_ids,
    )


def _figure(value: float) -> float | None:
    return None if value < 0 or math.isnan(value) else float(value)


def _group_precision(evaluation: Any, frequency_groups: Mapping[int, str]) -> dict[str, float | None]:
    precision_TRKAM = np.asarray(evaluation.eval["precision"])  # IoU, recall, category, area range, max detections
    per_class = precision_TRKAM[:, :, :, 0, -1].mean(axis=(0, 1))
    letters = np.array([frequency_groups.get(category_id, "") for category_id in evaluation.params.cat_ids])
    chosen = {name: per_class[(letters == letter) & (per_class >= 0)] for letter, name in _GROUP_METRICS.items()}
    return {name: float(values.mean()) if len(values) else None for name, values in chosen.items()}


def _rows(content: Any, name: str, where: str) -> list[dict[str, Any]]:
    if not isinstance(content, dict):
        raise InputError(f"{where}: must be an object with images, annotations and categories")
    if name not in content:
        raise InputError(f"{where}: has no list {name!r}")
    rows = content[name] or []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{where}: {name!r} must be a list of objects")
    return rows


def _normalised_annotations(
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
        if not isinstance(one, int | str) or isinstance(one, bool):
            raise InputError(f"{where}: image number {index}: id must be an integer or a string, got {one!r}")
    _refuse_duplicates(ids, "image", where)
    known: list[int | str] = [one for one in ids if isinstance(one, int | str)]
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
    if not isinstance(image_id, int | str) or image_id not in image_numbers:
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


def _normalised_results(
    rows: Any, dataset: dict[str, Any], image_numbers: dict[int | str, int], iou_type: IouType, *, where: str
) -> list[dict[str, Any]]:
    if not isinstance(rows, list):
        raise InputError(f"{where}: must be a list of detections, got {type(rows).__name__}")
    category_ids = {one["id"] for one in dataset["categories"]}
    sizes = {image["id"]: (image["height"], image["width"]) for image in dataset["images"]}
    detections = []
    for index, one in enumerate(rows):
        label = f"{where}: detection {index}"
        if not isinstance(one, dict):
            raise InputError(f"{label}: must be an object, got {type(one).__name__}")
        image_number = _number_of(one.get("image_id"), image_numbers, label)
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
