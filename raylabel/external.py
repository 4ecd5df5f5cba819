"""Calibration of any detector's COCO or LVIS results file: no image and no model is needed."""

import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylabel.calibration import (
    Corrector,
    Detections,
    FitContext,
    ImagePredictions,
    corrector_from_json,
    federated_accuracy,
    fit_corrector,
    match_image,
    weigh_by_verification,
)
from raylabel.calibration.correctors import CORRECTOR_KINDS, needs_context
from raylabel.calibration.tables import calibration_tables
from raylabel.context import CONTEXT_FEATURES, image_context
from raylabel.dataset.annotations import AnnotatedSet, read_annotations
from raylabel.errors import InputError
from raylabel.masks import Rle, rle_from_segmentation
from raylabel.matching import verification_weights
from raylabel.report import calibration_page, classes_csv, reliability_png
from raylabel.storage import commit_bytes, commit_json, commit_table, join, read_json


def calibrate_results(
    predictions: str,
    annotations: str,
    out: str,
    *,
    corrector: str = "auto",
    num_bins: int = 15,
    iou_threshold: float = 0.5,
    seed: int = 0,
) -> dict[str, Any]:
    """Match a results file to its ground truth, measure how well its scores are calibrated, and fit a corrector.

    Args:
        predictions: COCO/LVIS results JSON, path or URI: a list of `image_id`, `category_id`, `score` and
            `segmentation` (RLE).
        annotations: COCO or LVIS JSON of the same images; its image counts give the frequency groups.
        out: folder or URI that gets detections.parquet, bins.parquet, classes.parquet, corrector.json (for
            `correct_results`), reliability.png (after correction: cross-validated), calibration.html (diagrams and
            figures of every class on one page), classes.csv and, last, artifact.json.
        corrector: one of `calibration.correctors.CORRECTOR_KINDS`.
        num_bins: confidence bins over (0, 1], >= 2.
        iou_threshold: mask IoU from which a detection can be correct, in [0, 1].
        seed: of the folds of cross-validation.

    Returns:
        What artifact.json holds: counts by outcome, and CCECE (all and per frequency group, with counts), ECE, NLL
        and Brier score of the raw scores and, cross-validated by image, of the calibrated ones.

    Raises:
        InputError: a file is missing or malformed; the message names the entry. Or no detection can be judged.
    """
    if corrector not in CORRECTOR_KINDS:
        raise InputError(f"corrector must be one of {', '.join(CORRECTOR_KINDS)}, got {corrector!r}")
    if num_bins < 2:
        raise InputError(f"num_bins must be >= 2, got {num_bins}")
    if not 0 <= iou_threshold <= 1:
        raise InputError(f"iou_threshold must be in [0, 1], got {iou_threshold}")
    annotated = read_annotations(annotations)
    detections = read_detections(predictions, annotated, iou_threshold=iou_threshold)
    if not detections.is_scored.any():
        raise InputError(f"{predictions}: all {len(detections)} detections are ignored, so none can be judged")
    groups = annotated.frequency_groups()
    context = FitContext(
        num_bins=num_bins, frequency_groups=groups, seed=seed, num_train_images=annotated.class_image_counts()
    )
    fitted = fit_corrector(corrector, detections, context=context)
    tables = calibration_tables(
        detections,
        corrector=fitted,
        context=context,
        image_ids=[str(image.image_id) for image in annotated.images],
        class_names=annotated.class_names,
        category_ids=annotated.category_ids,
        num_train_images=annotated.class_image_counts(),
        accuracy=federated_accuracy(detections, annotated),
    )
    settings = {"corrector": corrector, "num_bins": num_bins, "iou_threshold": iou_threshold, "seed": seed}
    artifact = {"predictions": predictions, "annotations": annotations, "settings": settings, **tables.summary}
    commit_table(join(out, "detections.parquet"), tables.detections)
    commit_table(join(out, "bins.parquet"), tables.bins)
    commit_table(join(out, "classes.parquet"), tables.classes)
    described = fitted.to_json() | {"category_ids": annotated.category_ids.tolist(), "num_bins": num_bins}
    commit_json(join(out, "corrector.json"), described)
    picture = reliability_png(
        tables.raw_bins,
        tables.cross_validated_bins,
        groups={letter: groups == letter for letter in ("r", "c", "f") if (groups == letter).any()},
        title=f"before and after `{tables.summary['corrector_chosen']}` (cross-validated by image)",
    )
    commit_bytes(join(out, "reliability.png"), picture)
    page = calibration_page(tables, predictions=predictions, annotations=annotations, iou_threshold=iou_threshold)
    commit_bytes(join(out, "calibration.html"), page.encode())
    commit_bytes(join(out, "classes.csv"), classes_csv(tables.classes, tables.cross_validated_bins))
    commit_json(join(out, "artifact.json"), artifact)
    return artifact


def correct_results(corrector: str, predictions: str, out: str) -> dict[str, Any]:
    """Apply a fitted corrector to a results file.

    Args:
        corrector: path or URI of the corrector.json that `calibrate_results` wrote.
        predictions: results JSON; `category_id` and `score` are read, and `image_id` and `segmentation` (RLE) as well
            for a corrector that looks at context. It should hold all of an image's detections, as those that the
            corrector was fitted to.
        out: the same entries in the same order with `score` replaced by the calibrated score and `raw_score` added.

    Returns:
        {"num_detections": ..., "mean_raw_score": ..., "mean_calibrated_score": ..., "corrector": kind}.

    Raises:
        InputError: a file is missing or malformed, a category is not one the corrector was fitted on, or the results
            were corrected before.
    """
    fitted, class_index_of = _read_corrector(corrector)
    entries = _read_entries(predictions)
    class_indices = [_look_up(predictions, row, one, "category_id", class_index_of) for row, one in enumerate(entries)]
    raw_scores = [_score(predictions, row, one) for row, one in enumerate(entries)]
    for row, one in enumerate(entries):
        if "raw_score" in one:
            raise InputError(f"{predictions}: entry {row} already has a raw_score: these results were corrected before")
    context = _read_context(predictions, entries, class_indices, raw_scores) if needs_context(fitted) else None
    detections = Detections.of_scores(class_indices, raw_scores, num_classes=len(class_index_of), context=context)
    try:
        scores = fitted(detections)
    except ValueError as error:
        raise InputError(f"{predictions}: {error}") from error
    corrected = [
        one | {"score": float(score), "raw_score": raw}
        for one, score, raw in zip(entries, scores, raw_scores, strict=True)
    ]
    commit_bytes(out, json.dumps(corrected, allow_nan=False).encode())
    return {
        "num_detections": len(corrected),
        "mean_raw_score": float(np.mean(raw_scores)),
        "mean_calibrated_score": float(scores.mean()),
        "corrector": fitted.kind,
    }


def _read_context(
    path: str, entries: list[dict[str, Any]], class_indices: list[int], raw_scores: list[float]
) -> NDArray[np.float32]:
    """Context of every entry from all of its image's; the masks' own size is the image's."""
    of_image: dict[Any, list[int]] = {}
    for row, one in enumerate(entries):
        if "image_id" not in one:
            raise InputError(f"{path}: entry {row} has no image_id, which a contextual corrector needs")
        of_image.setdefault(one["image_id"], []).append(row)
    classes, scores = np.asarray(class_indices), np.asarray(raw_scores)
    context = np.zeros((len(entries), len(CONTEXT_FEATURES)), np.float32)
    for rows in of_image.values():
        masks = [_mask(path, row, entries[row], _mask_size(path, row, entries[row])) for row in rows]
        sizes = {tuple(mask["size"]) for mask in masks}
        if len(sizes) > 1:
            raise InputError(f"{path}: entry {rows[0]}: masks of image {entries[rows[0]]['image_id']} differ in size")
        context[rows] = image_context(classes[rows], scores[rows], masks)
    return context


def _mask_size(path: str, row: int, entry: dict[str, Any]) -> tuple[int, int]:
    segmentation = entry.get("segmentation")
    size = segmentation.get("size") if isinstance(segmentation, dict) else None
    if not isinstance(size, list) or len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise InputError(
            f"{path}: entry {row} has no RLE segmentation with its size, which a contextual corrector needs"
        )
    return size[0], size[1]


def read_detections(predictions: str, annotated: AnnotatedSet, *, iou_threshold: float = 0.5) -> Detections:
    """Read a results file and match it, in the file's order; `image_indices` are places in `annotated.images`.

    Raises:
        InputError: as of `calibrate_results`.
    """
    entries = _read_entries(predictions)
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


def _read_entries(path: str) -> list[dict[str, Any]]:
    entries = read_json(path)
    if not isinstance(entries, list):
        raise InputError(f"{path}: results must be a list of detections, got {type(entries).__name__}")
    if not entries:
        raise InputError(f"{path}: results hold no detection")
    for row, one in enumerate(entries):
        if not isinstance(one, dict):
            raise InputError(f"{path}: entry {row} must be an object, got {type(one).__name__}")
    return entries


def _look_up(path: str, row: int, entry: dict[str, Any], name: str, places: dict[Any, int]) -> int:
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


def _read_corrector(path: str) -> tuple[Corrector, dict[Any, int]]:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("category_ids"), list):
        raise InputError(f"{path}: not a corrector of results files: it must be an object with category_ids")
    try:
        fitted = corrector_from_json(content)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    return fitted, {category_id: index for index, category_id in enumerate(content["category_ids"])}
