"""Calibration of any detector's scores: match, bin, measure, correct. NumPy and SciPy only."""

from raylabel.calibration.bins import ReliabilityBins, bin_edges, bin_of
from raylabel.calibration.corrector import Corrector, FitContext
from raylabel.calibration.correctors import corrector_from_json, fit_corrector
from raylabel.calibration.detections import Detections, ImagePredictions, match_image, match_set
from raylabel.calibration.folds import image_folds, out_of_fold_scores
from raylabel.calibration.metrics import (
    brier,
    ccece,
    class_bias,
    class_ccece,
    class_ccece_debiased,
    credible_interval,
    ece,
    effective_count,
    mean_bias,
    nll,
    pointwise_nll,
)
from raylabel.calibration.soft import correct_soft_vectors

__all__ = [
    "Corrector",
    "Detections",
    "FitContext",
    "ImagePredictions",
    "ReliabilityBins",
    "bin_edges",
    "bin_of",
    "brier",
    "ccece",
    "class_bias",
    "class_ccece",
    "class_ccece_debiased",
    "correct_soft_vectors",
    "corrector_from_json",
    "credible_interval",
    "ece",
    "effective_count",
    "fit_corrector",
    "image_folds",
    "match_image",
    "match_set",
    "mean_bias",
    "nll",
    "out_of_fold_scores",
    "pointwise_nll",
]
