"""Calibration of any detector's scores: match, bin, measure, correct. Knows no run and no model, and loads no torch."""

from raylabel.calibration.accuracy import ClassAccuracy, scored_accuracy
from raylabel.calibration.bins import ReliabilityBins
from raylabel.calibration.correctors.base import Corrector, FitContext
from raylabel.calibration.correctors.folds import image_folds, out_of_fold_scores
from raylabel.calibration.correctors.kinds import corrector_from_json, fit_corrector
from raylabel.calibration.detections import Detections, ImagePredictions, match_image
from raylabel.calibration.match_set import match_set
from raylabel.calibration.results_file import read_detections, results_entries
from raylabel.calibration.shift.drift import measure_drift
from raylabel.calibration.shift.image_counts import ImageCounts
from raylabel.calibration.shift.pool_accuracy import estimate_pool_accuracy
from raylabel.calibration.tables import calibration_tables
from raylabel.calibration.verification import federated_accuracy, weigh_by_verification
from raylabel.config import CORRECTOR_KINDS
from raylabel.dataset.annotations import read_annotations

__all__ = [
    "CORRECTOR_KINDS",
    "ClassAccuracy",
    "Corrector",
    "Detections",
    "FitContext",
    "ImageCounts",
    "ImagePredictions",
    "ReliabilityBins",
    "calibration_tables",
    "corrector_from_json",
    "estimate_pool_accuracy",
    "federated_accuracy",
    "fit_corrector",
    "image_folds",
    "match_image",
    "match_set",
    "measure_drift",
    "out_of_fold_scores",
    "read_annotations",
    "read_detections",
    "results_entries",
    "scored_accuracy",
    "weigh_by_verification",
]
