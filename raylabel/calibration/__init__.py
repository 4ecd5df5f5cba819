"""Calibration of any detector's scores: match, bin, measure, correct. NumPy and SciPy only."""

from raylabel.calibration.bins import ReliabilityBins, bin_edges, bin_of
from raylabel.calibration.corrector import Corrector, FitContext
from raylabel.calibration.correctors import CORRECTOR_KINDS, corrector_from_json, fit_corrector
from raylabel.calibration.detections import Detections, ImagePredictions, match_image, match_set
from raylabel.calibration.drift import DriftReport, measure_drift
from raylabel.calibration.folds import image_folds, out_of_fold_scores
from raylabel.calibration.image_counts import ImageCounts
from raylabel.calibration.metrics import (
    brier,
    ccece,
    class_bias,
    class_ccece,
    class_ccece_debiased,
    credible_interval,
    ece,
    effective_count,
    group_masks,
    mean_bias,
    nll,
    pointwise_nll,
)
from raylabel.calibration.pool_accuracy import PoolAccuracy, estimate_pool_accuracy
from raylabel.calibration.soft import correct_soft_vectors
from raylabel.calibration.tables import CalibrationTables, calibration_tables, format_summary

__all__ = [
    "CORRECTOR_KINDS",
    "CalibrationTables",
    "Corrector",
    "Detections",
    "DriftReport",
    "FitContext",
    "ImageCounts",
    "ImagePredictions",
    "PoolAccuracy",
    "ReliabilityBins",
    "bin_edges",
    "bin_of",
    "brier",
    "calibration_tables",
    "ccece",
    "class_bias",
    "class_ccece",
    "class_ccece_debiased",
    "correct_soft_vectors",
    "corrector_from_json",
    "credible_interval",
    "ece",
    "effective_count",
    "estimate_pool_accuracy",
    "fit_corrector",
    "format_summary",
    "group_masks",
    "image_folds",
    "match_image",
    "match_set",
    "mean_bias",
    "measure_drift",
    "nll",
    "out_of_fold_scores",
    "pointwise_nll",
]
