"""Any detector's COCO or LVIS results file as detections: no image and no model is needed."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from raylabel.calibration.detections import Detections, ImagePredictions, match_image
from raylabel.calibration.verification import weigh_by_verification
from raylabel.context import CONTEXT_FEATURES, image_context
from raylabel.dataset.annotations import AnnotatedSet
from raylabel.errors import InputError
from raylabel.masks import Rle, rle_from_segmentation
from raylabel.matching import verification_weights
from raylabel.storage import read_json


def read_detections(predictions: str, annotated: AnnotatedSet, *, iou_threshold: float = 0.5) -> Detections:
    """Read a results file and match it, in the file's order; `image_indices` are places in `annotated.images`.

    Raises:
        InputError: the file is missing or malformed; the message names the entry.
    """
    entries = read_entries(predictions)
    row_of = {image.image_id: row for row, image in enumerate(annotated.images)}
    of_image: dict[int, list[int]] = {}
    classes, scores, masks = np.zeros(len(entries), np.int32), np.zeros(len(entries)), list[Rle]()
    for entry, one in enumerate(entries):
        row = _look_up(predictions, entry, one, "image_id", row_of)
        of_image.setdefault(row, []).append(entry)
        classes[entry] = _look_up(predictions, entry, one, "category_id", annotated.class_index_of)
        scores[entry] = _score(predictions, entry, one)
        masks.append(_mask(predictions, entry, one, annotated.images[row].image_size_hw))
    class_weights = verification_weights(annotated)
    parts = [
        match_image(
            annotated,
            row,
            ImagePredictions(classes[chosen], scores[chosen], [masks[entry] for entry in chosen]),
            class_weights=class_weights,
            iou_threshold=iou_threshold,
        )
        for row, chosen in of_image.items()
    ]
    file_order = np.argsort(np.concatenate([np.array(chosen) for chosen in of_image.values()]))
    return weigh_by_verification(Detections.concat(parts).subset(file_order), annotated)


def unmatched_detections(
    path: str, entries: list[dict[str, Any]], class_index_of: Mapping[Any, int], *, with_context: bool = True
) -> Detections:
    """Detections of a results file whose truth is not at hand, in the file's order.

    Args:
        path: of the file, for messages.
        entries: what `read_entries` gave.
        class_index_of: category id -> class index.
        with_context: whether to read the masks (RLE) and give the detections' context; an RLE's size is the image's.

    Raises:
        InputError: an entry is malformed or of an unknown category.
    """
    classes = np.array([_look_up(path, row, one, "category_id", class_index_of) for row, one in enumerate(entries)])
    scores = np.array([_score(path, row, one) for row, one in enumerate(entries)])
    of_image: dict[Any, list[int]] = {}
    context = np.zeros((len(entries), len(CONTEXT_FEATURES)), np.float32) if with_context else None
    if context is not None:
        for row, one in enumerate(entries):
            if "image_id" not in one:
                raise InputError(f"{path}: entry {row} has no image_id, which a contextual corrector needs")
            of_image.setdefault(one["image_id"], []).append(row)
        for rows in of_image.values():
            masks = [_mask(path, row, entries[row], _mask_size(path, row, entries[row])) for row in rows]
            if len({tuple(mask["size"]) for mask in masks}) > 1:
                image_id = entries[rows[0]]["image_id"]
                raise InputError(f"{path}: entry {rows[0]}: masks of image {image_id} differ in size")
            context[rows] = image_context(classes[rows], scores[rows], masks)
    return Detections.of_scores(classes, scores, num_classes=len(class_index_of), context=context)


def read_entries(path: str) -> list[dict[str, Any]]:
    entries = read_json(path)
    if not isinstance(entries, list):
        raise InputError(f"{path}: results must be a list of detections, got {type(entries).__name__}")
    if not entries:
        raise InputError(f"{path}: results hold no detection")
    for row, one in enumerate(entries):
        if not isinstance(one, dict):
            raise InputError(f"{path}: entry {row} must be an object, got {type(one).__name__}")
    return entries


def _look_up(path: str, row: int, entry: dict[str, Any], name: str, places: Mapping[Any, int]) -> int:
    if name not in entry:
        raise InputError(f"{path}: entry {row} has no {name}")
    value = entry[name]
    if isinstance(value, bool) or not isinstance(value, int | str) or value not in places:
        raise InputError(f"{path}: entry {row}: unknown {name} {value!r}")
    return places[value]


def _score(path: str, row: int, entry: dict[str, Any]) -> float:
    if "score" not in entry:
        raise InputError(f"{path}: entry {row} has no score")
    score = entry["score"]
    if isinstance(score, bool) or not isinstance(score, int | float) or math.isnan(score) or not 0 <= score <= 1:
        raise InputError(f"{path}: entry {row}: score must be a number in [0, 1], got {score!r}")
    return float(score)


def _mask(path: str, row: int, entry: dict[str, Any], image_size_hw: tuple[int, int]) -> Rle:
    if entry.get("segmentation") is None:
        raise InputError(f"{path}: entry {row} has no segmentation: detections are matched by masks, which are needed")
    try:
        return rle_from_segmentation(entry["segmentation"], image_size_hw)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: entry {row} (image {entry['image_id']}): {error}") from error


def _mask_size(path: str, row: int, entry: dict[str, Any]) -> tuple[int, int]:
    segmentation = entry.get("segmentation")
    size = segmentation.get("size") if isinstance(segmentation, dict) else None
    if not isinstance(size, list) or len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise InputError(
            f"{path}: entry {row} has no RLE segmentation with its size, which a contextual corrector needs"
        )
    return size[0], size[1]
