"""The stored tables and the figures of a calibration. Runs and results files of other detectors share them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylabel.calibration.accuracy import ClassAccuracy, scored_accuracy
from raylabel.calibration.bins import ReliabilityBins
from raylabel.calibration.correctors.auto import chosen_kind
from raylabel.calibration.correctors.base import Corrector, FitContext
from raylabel.calibration.correctors.folds import image_folds, out_of_fold_scores
from raylabel.calibration.correctors.kinds import fit_corrector
from raylabel.calibration.detections import Detections
from raylabel.calibration.metrics.binned import brier, ccece, class_bias, class_ccece, ece, group_masks, mean_bias, nll
from raylabel.predictions.matching import Outcome
from raylabel.schema import CLASSES, DETECTIONS, context_to_arrow, nullable


@dataclass(frozen=True, kw_only=True)
class CalibrationTables:
    """The tables and figures of a calibration.

    Attributes:
        detections: schema.DETECTIONS. `calibrated_score` comes from the corrector that was fitted on all detections.
        bins: schema.BINS of the raw scores.
        classes: schema.CLASSES. `ccece_calibrated` is cross-validated.
        summary: plain numbers. Figures after correction are cross-validated by image, and their keys say so. None: no
            detection gives the figure.
        raw_bins: bins of the raw scores.
        cross_validated_bins: bins of calibrated scores. Each score comes from a corrector fitted without the image's
            fold.
    """

    detections: pa.Table
    bins: pa.Table
    classes: pa.Table
    summary: dict[str, Any]
    raw_bins: ReliabilityBins
    cross_validated_bins: ReliabilityBins


def calibration_tables(
    detections: Detections,
    *,
    corrector: Corrector,
    context: FitContext,
    image_ids: Sequence[str],
    class_names: Sequence[str],
    category_ids: NDArray[np.int64] | Sequence[int],
    num_train_images: NDArray[np.int64] | Sequence[int],
    accuracy: ClassAccuracy | None = None,
) -> CalibrationTables:
    """Build tables and figures.

    Args:
        detections: matched detections. `image_indices` index `image_ids`.
        corrector: corrector fitted to `detections`. Its kind is fitted once per fold for the cross-validated figures.
        context: context of the corrector's fit.
        image_ids: image index -> id.
        class_names: (num_classes,) names.
        category_ids: (num_classes,) ids in the annotations.
        num_train_images: (num_classes,) images of the training set with the class.
        accuracy: `federated_accuracy` of the detections. None: `scored_accuracy`.
    """
    folds = image_folds(detections.image_indices, seed=context.seed)
    # Without the pool's histogram, because held-out detections are not from the pool. They judge the family only.
    fit = partial(fit_corrector, corrector.kind, context=replace(context, pool_histogram=None))
    held_out_scores = out_of_fold_scores(detections, folds, fit)
    raw_bins = ReliabilityBins.from_detections(detections, context.num_bins)
    held_out_bins = ReliabilityBins.from_detections(detections, context.num_bins, held_out_scores)
    return CalibrationTables(
        detections=_detections_table(detections, corrector, image_ids),
        bins=raw_bins.to_table(),
        classes=pa.table(
            {
                "class_index": np.arange(detections.num_classes, dtype=np.int32),
                "category_id": np.asarray(category_ids, dtype=np.int64),
                "name": list(class_names),
                "frequency_group": [str(letter) for letter in context.frequency_groups],
                "num_train_images": np.asarray(num_train_images, dtype=np.int64),
                **_class_figures(detections, raw_bins, accuracy or scored_accuracy(detections)),
                "ccece_calibrated": nullable(class_ccece(held_out_bins)),
            },
            schema=CLASSES,
        ),
        summary=_summary(detections, corrector, context, raw_bins, held_out_bins, held_out_scores),
        raw_bins=raw_bins,
        cross_validated_bins=held_out_bins,
    )


def _detections_table(detections: Detections, corrector: Corrector, image_ids: Sequence[str]) -> pa.Table:
    areas = detections.mask_areas
    return pa.table(
        {
            "image_id": pa.array(np.asarray(image_ids, dtype=object)[detections.image_indices], pa.string()),
            "class_index": detections.class_indices,
            "raw_score": detections.raw_scores.astype(np.float32),
            "calibrated_score": corrector(detections).astype(np.float32),
            "outcome": detections.known_outcomes,
            "weight": detections.weights.astype(np.float32),
            "mask_area": pa.nulls(len(detections), pa.int32()) if areas is None else areas,
            "context": context_to_arrow(detections.context, len(detections)),
        },
        schema=DETECTIONS,
    )


def _class_figures(detections: Detections, bins: ReliabilityBins, accuracy: ClassAccuracy) -> dict[str, Any]:
    scored = detections.scored()
    return {
        "num_detections": np.bincount(scored.class_indices, minlength=detections.num_classes),
        "num_effective": accuracy.num_effective,
        "accuracy": nullable(accuracy.accuracy),
        "accuracy_low": nullable(accuracy.low),
        "accuracy_high": nullable(accuracy.high),
        "bias": nullable(class_bias(bins)),
        "ccece": nullable(class_ccece(bins)),
    }


def _summary(
    detections: Detections,
    corrector: Corrector,
    context: FitContext,
    raw_bins: ReliabilityBins,
    held_out_bins: ReliabilityBins,
    held_out_scores: NDArray[np.float64],
) -> dict[str, Any]:
    outcomes = detections.known_outcomes
    is_scored = detections.is_scored
    num_scored = np.bincount(detections.class_indices[is_scored], minlength=detections.num_classes)
    groups = group_masks(context.frequency_groups)
    return {
        "num_images": len(np.unique(detections.image_indices)),
        "num_detections": len(detections),
        "num_correct": int((outcomes == Outcome.CORRECT).sum()),
        "num_incorrect": int((outcomes == Outcome.INCORRECT).sum()),
        "num_ignored": int((outcomes == Outcome.IGNORED).sum()),
        "corrector": corrector.kind,
        "corrector_chosen": chosen_kind(corrector),
        "groups": {
            name: {
                "num_classes": int(mask.sum()),
                "num_classes_with_detections": int((num_scored[mask] > 0).sum()),
                "num_detections": int(num_scored[mask].sum()),
            }
            for name, mask in groups.items()
        },
        "raw": _figures(detections, context, raw_bins, detections.raw_scores),
        "calibrated_cross_validated": _figures(detections, context, held_out_bins, held_out_scores),
    }


def _figures(
    detections: Detections, context: FitContext, bins: ReliabilityBins, scores: NDArray[np.float64]
) -> dict[str, Any]:
    """Compute the figures over all classes, and CCECE per frequency group. Without a detection a figure is None."""
    rows = detections.is_scored
    is_correct, weights = detections.is_correct[rows], detections.weights[rows]
    by_group = {name: bins.of_classes(mask) for name, mask in group_masks(context.frequency_groups).items()}
    is_empty = not rows.any()
    return {
        "nll": None if is_empty else nll(scores[rows], is_correct, weights),
        "brier": None if is_empty else brier(scores[rows], is_correct, weights),
        "ece": None if is_empty else ece(bins),
        "mean_class_bias": None if is_empty else mean_bias(bins),
        "ccece": {name: ccece(part) if part.num.any() else None for name, part in by_group.items()},
        "ccece_debiased": {
            name: ccece(part, debiased=True) if part.num.any() else None for name, part in by_group.items()
        },
    }
