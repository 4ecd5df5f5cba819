"""Calibration of any detector's COCO or LVIS results file. It needs no image and no model."""

from pathlib import Path
from typing import Any

import numpy as np

from raylabel.calibration import (
    Corrector,
    FitContext,
    corrector_from_json,
    federated_accuracy,
    fit_corrector,
)
from raylabel.calibration.correctors.file import commit_corrector, read_corrector_content
from raylabel.calibration.correctors.kinds import try_corrector
from raylabel.calibration.metrics import group_masks
from raylabel.calibration.results_file import match_results, unmatched_results
from raylabel.calibration.tables import calibration_tables
from raylabel.config import CORRECTOR_KINDS
from raylabel.dataset.annotations import read_annotations, validate_same_categories
from raylabel.dataset.fields import check_category_id
from raylabel.errors import InputError
from raylabel.files.committing import commit_bytes
from raylabel.files.json_files import commit_json
from raylabel.files.paths import join
from raylabel.files.tables import commit_table
from raylabel.predictions.context import MODEL_FEATURES
from raylabel.predictions.results_writing import write_scores
from raylabel.redaction import redacted
from raylabel.report.calibration_view import classes_csv
from raylabel.report.page import calibration_page
from raylabel.report.reliability import reliability_png


def calibrate_results(
    predictions: str | Path,
    annotations: str | Path,
    out: str | Path,
    *,
    train_annotations: str | Path | None = None,
    corrector: str = "auto",
    num_bins: int = 15,
    iou_threshold: float = 0.5,
    seed: int = 0,
    with_context: bool = True,
) -> dict[str, Any]:
    """Match a results file to its ground truth, measure the calibration of its scores, and fit a corrector.

    Args:
        predictions: COCO/LVIS results JSON, path or URI: a list of `image_id` (or the image's `file_name`),
            `category_id`, `score` and `segmentation` (polygons or RLE). Other fields may hold anything. Entries of
            raylabel's models may also have `mask_quality`, `background` and `runner_up`, as
            `raylabel.calibration.results_entries` writes them. `contextual` then looks at these fields, and needs them
            in every file that it corrects.
        annotations: COCO or LVIS JSON of the same images. Its categories' `frequency` (LVIS) gives the frequency
            groups; without it, the image counts do.
        train_annotations: COCO or LVIS JSON that the detector was trained on, with the same categories. Its image
            counts give `norcal` its divisors, and the frequency groups if `annotations` does not declare them. Without
            it, the image counts are those of `annotations`.
        out: folder or URI to write. It gets detections.parquet, bins.parquet, classes.parquet, corrector.json (for
            `correct_results`), reliability.png (corrected scores are cross-validated), calibration.html (diagrams and
            figures of every class), classes.csv and, last, artifact.json.
        corrector: one of `config.CORRECTOR_KINDS`.
        num_bins: number of confidence bins over (0, 1], >= 2.
        iou_threshold: smallest mask IoU of a correct detection, in [0, 1].
        seed: seed of the cross-validation folds.
        with_context: whether to compute the context of each detection, which takes most of the time. Without it,
            `contextual` looks at scores and classes alone.

    Returns:
        The content of artifact.json: the file of the image counts (`train_counts_of`), whether `correct_results` needs
        annotations for such a file (`correct_needs_annotations`), counts by outcome, CCECE (all classes, and per
        frequency group with counts), ECE, NLL and Brier score. The figures are of raw scores and of calibrated scores,
        cross-validated by image.

    Raises:
        InputError: a file is missing or malformed; the message names the entry. Or all detections are ignored.

    Examples:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> import raylabel as rl
        >>> square = [[0, 0, 6, 0, 6, 6, 0, 6]]
        >>> found = [{"image_id": one, "category_id": 3, "segmentation": square} for one in range(12)]
        >>> results = [one | {"score": 0.6} for one in found]
        >>> truth = {
        ...     "images": [{"id": one, "file_name": f"{one}.jpg", "height": 16, "width": 16} for one in range(12)],
        ...     "categories": [{"id": 3, "name": "cat"}],
        ...     "annotations": [one | {"id": number} for number, one in enumerate(found, start=1)],
        ... }
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     predictions, annotations = Path(folder, "results.json"), Path(folder, "truth.json")
        ...     _ = predictions.write_text(json.dumps(results)), annotations.write_text(json.dumps(truth))
        ...     summary = rl.calibrate_results(str(predictions), str(annotations), folder, corrector="temperature")
        >>> summary["num_correct"], round(summary["raw"]["ccece"]["all"], 3)
        (12, 0.4)
    """
    if corrector not in CORRECTOR_KINDS:
        raise InputError(f"corrector must be one of {', '.join(CORRECTOR_KINDS)}, got {corrector!r}")
    predictions, annotations, out = str(predictions), str(annotations), str(out)
    if num_bins < 2:
        raise InputError(f"num_bins must be >= 2, got {num_bins}")
    if not 0 <= iou_threshold <= 1:
        raise InputError(f"iou_threshold must be in [0, 1], got {iou_threshold}")
    annotated = read_annotations(annotations)
    train = None if train_annotations is None else read_annotations(train_annotations)
    if train is not None:
        validate_same_categories(annotated, train, files=(annotations, str(train_annotations)))
    matched = match_results(
        predictions, annotated, where=predictions, iou_threshold=iou_threshold, with_context=with_context
    )
    detections = matched.detections
    if not detections.is_scored.any():
        raise InputError(f"{predictions}: all {len(detections)} detections are ignored, so none can be judged")
    context = FitContext.of(annotated, train=train, num_bins=num_bins, seed=seed)
    fitted = fit_corrector(corrector, detections, context=context)
    tables = calibration_tables(
        detections,
        corrector=fitted,
        context=context,
        image_ids=list(map(str, annotated.images.ids())),
        class_names=annotated.class_names,
        category_ids=annotated.category_ids,
        num_train_images=(annotated if train is None else train).class_image_counts(),
        accuracy=federated_accuracy(detections, annotated),
    )
    settings = {"corrector": corrector, "num_bins": num_bins, "iou_threshold": iou_threshold, "seed": seed}
    artifact = {
        "predictions": redacted(predictions),
        "annotations": redacted(annotations),
        "train_counts_of": redacted(str(train_annotations or annotations)),
        "correct_needs_annotations": bool(fitted.features) and matched.has_polygons,
        "settings": settings,
        "num_images_without_detection": len(annotated) - tables.summary["num_images"],
        **tables.summary,
    }
    commit_table(join(out, "detections.parquet"), tables.detections)
    commit_table(join(out, "bins.parquet"), tables.bins)
    commit_table(join(out, "classes.parquet"), tables.classes)
    commit_corrector(join(out, "corrector.json"), fitted, annotated.category_ids, num_bins=num_bins)
    picture = reliability_png(
        tables.raw_bins,
        tables.cross_validated_bins,
        groups={name: mask for name, mask in group_masks(context.frequency_groups).items() if name != "all"},
        title=f"before and after `{tables.summary['corrector_chosen']}` (cross-validated by image)",
    )
    commit_bytes(join(out, "reliability.png"), picture)
    page = calibration_page(tables, predictions=predictions, annotations=annotations, iou_threshold=iou_threshold)
    commit_bytes(join(out, "calibration.html"), page.encode())
    commit_bytes(join(out, "classes.csv"), classes_csv(tables.classes, tables.raw_bins, tables.cross_validated_bins))
    commit_json(join(out, "artifact.json"), artifact)
    return artifact


def correct_results(
    corrector: str | Path, predictions: str | Path, out: str | Path, *, annotations: str | Path | None = None
) -> dict[str, Any]:
    """Apply a fitted corrector to a results file.

    Args:
        corrector: path or URI of the corrector.json that `calibrate_results` wrote.
        predictions: results JSON. Every corrector reads `category_id` and `score`; a corrector that uses context also
            reads `image_id`, `segmentation` (polygons or RLE) and, if its fit had them, `mask_quality`, `background`
            and `runner_up`. Other fields may hold anything. The file should hold all detections of an image, like the
            file that the corrector was fitted to.
        out: JSON file to write: the same entries in the same order. `score` is the calibrated score, and `raw_score`
            is added.
        annotations: COCO or LVIS JSON with the images of `predictions`, for their sizes. Only polygons need it.

    Returns:
        {"num_detections": ..., "mean_raw_score": ..., "mean_calibrated_score": ..., "corrector": kind}. The
        means are None without a detection.

    Raises:
        InputError: a file is missing or malformed, lacks a field that the corrector looks at, the corrector was not
            fitted to a category, or the results were corrected before.

    Examples:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> import raylabel as rl
        >>> square = [[0, 0, 6, 0, 6, 6, 0, 6]]
        >>> found = [{"image_id": one, "category_id": 3, "segmentation": square} for one in range(12)]
        >>> results = [one | {"score": 0.6} for one in found]
        >>> truth = {
        ...     "images": [{"id": one, "file_name": f"{one}.jpg", "height": 16, "width": 16} for one in range(12)],
        ...     "categories": [{"id": 3, "name": "cat"}],
        ...     "annotations": [one | {"id": number} for number, one in enumerate(found, start=1)],
        ... }
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     predictions, annotations = Path(folder, "results.json"), Path(folder, "truth.json")
        ...     _ = predictions.write_text(json.dumps(results)), annotations.write_text(json.dumps(truth))
        ...     _ = rl.calibrate_results(str(predictions), str(annotations), folder, corrector="temperature")
        ...     out = Path(folder, "corrected.json")
        ...     summary = rl.correct_results(str(Path(folder, "corrector.json")), str(predictions), str(out))
        ...     first = json.loads(out.read_text())[0]
        >>> first["raw_score"], first["score"] > 0.9
        (0.6, True)
        >>> summary["num_detections"], summary["corrector"]
        (12, 'temperature')
    """
    corrector, predictions, out = str(corrector), str(predictions), str(out)
    fitted, class_index_of = _read_corrector(corrector)
    annotated = None if annotations is None or not fitted.features else read_annotations(annotations)
    read = unmatched_results(
        predictions,
        predictions,
        class_index_of,
        with_context=bool(fitted.features),
        annotated=annotated,
        refused=("raw_score", "already has a raw_score: these results were corrected before"),
        needed_features=[name for name in MODEL_FEATURES if name in fitted.features],
    )
    raw_scores = read.detections.raw_scores
    try:
        scores = fitted(read.detections) if len(raw_scores) else np.zeros(0)
    except ValueError as error:
        raise InputError(f"{predictions}: {error}") from error
    if not np.isfinite(scores).all():
        raise InputError(f"{corrector}: corrector {fitted.kind!r} gives scores that are not in [0, 1]")
    write_scores(predictions, out, scores, raw_scores, part_lengths=read.part_lengths)
    return {
        "num_detections": len(scores),
        "mean_raw_score": float(raw_scores.mean()) if len(scores) else None,
        "mean_calibrated_score": float(scores.mean()) if len(scores) else None,
        "corrector": fitted.kind,
    }


def _read_corrector(path: str) -> tuple[Corrector, dict[Any, int]]:
    content = read_corrector_content(path, remedy="Calibrate again.")
    if not isinstance(content, dict) or not isinstance(content.get("category_ids"), list):
        raise InputError(f"{path}: not a corrector of results files. It must be an object with category_ids")
    class_index_of = {
        check_category_id(category_id, f"{path}: category_ids number {index}"): index
        for index, category_id in enumerate(content["category_ids"])
    }
    if len(class_index_of) < len(content["category_ids"]):
        raise InputError(f"{path}: category_ids must differ from each other")
    try:
        fitted = corrector_from_json(content)
        try_corrector(fitted, len(class_index_of))
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    return fitted, class_index_of
