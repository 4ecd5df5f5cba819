"""Average precision and recall of a results file, by COCO's and LVIS's protocols."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylabel.evaluation.checked_input import IouType
from raylabel.evaluation.checked_results import check_results
from raylabel.evaluation.match_rows import LVIS_MAX_DETECTIONS
from raylabel.masks.rle import Rle

MIN_RESULT_SCORE = 0.01
"""Smallest score of a result. It is low because AP depends on the whole ranking."""

MAX_RESULTS_PER_IMAGE = LVIS_MAX_DETECTIONS
"""Results per image. An object has one result per class that it may be."""


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
    `bbox`, even with `iou_type="segm"`: both references do so. A detection without `bbox` has the size of its mask. In
    LVIS data the first detection decides for all, as in lvis-api: if it has no `bbox`, no `bbox` counts.

    Args:
        annotations: COCO or LVIS JSON: path, URI or content.
        results: list of detections `{"image_id", "category_id", "score", "segmentation" or "bbox"}`: path, URI or
            content. `image_id` may be the image's `file_name`.
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
