"""Average precision and recall of a results file, by COCO's and LVIS's protocols."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from hotcoco import COCO, COCOeval, LVISeval, LVISResults
from numpy.typing import NDArray

from raylabel.dataset.frequency import FrequencyGroup
from raylabel.errors import InputError
from raylabel.evaluation.checked_input import IouType, checked_annotations, checked_detections
from raylabel.files.storage import read_json
from raylabel.masks.rle import Rle

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
        dataset: images, annotations and categories. Ids of images and categories are replaced by numbers.
        detections: detections with the same numbers.
        iou_type: "segm" or "bbox".
        is_federated: whether LVIS's protocol applies.
        frequency_groups: category number -> "r", "c" or "f", see `evaluate_results`.
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

    @property
    def num_images_without_detection(self) -> int:
        """Number of images that no detection names."""
        return len(self.dataset["images"]) - len({one["image_id"] for one in self.detections})

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
    truth = checked_annotations(content, iou_type, frequency_groups, where)
    results_where = results if isinstance(results, str) else "results"
    rows = read_json(results) if isinstance(results, str) else results
    detections = checked_detections(rows, truth, iou_type, where=results_where)
    numbers = truth.category_numbers
    groups = frequency_groups and {numbers[one]: group for one, group in frequency_groups.items() if one in numbers}
    return CheckedResults(truth.dataset, detections, iou_type, truth.is_federated, groups, (where, results_where))


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
