"""Calibration of any detector's scores: match, bin, measure, correct. NumPy, SciPy and, in one file, LightGBM."""

from raylabel.calibration.accuracy import ClassAccuracy, exact_interval, scored_accuracy
from raylabel.calibration.bins import ReliabilityBins, bin_edges, bin_of
from raylabel.calibration.correctors.base import Corrector, FitContext
from raylabel.calibration.correctors.folds import image_folds, out_of_fold_scores
from raylabel.calibration.correctors.kinds import corrector_from_json, fit_corrector
from raylabel.calibration.correctors.soft import correct_soft_vectors
from raylabel.calibration.detections import Detections, ImagePredictions, match_image
from raylabel.calibration.match_set import match_set
from raylabel.calibration.metrics.binned import (
    ace,
    brier,
    ccece,
    class_ace,
    class_bias,
    class_ccece,
    class_ccece_debiased,
    class_mce,
    class_rmsce,
    credible_interval,
    ece,
    effective_count,
    group_masks,
    mce,
    mean_bias,
    nll,
    pointwise_nll,
    rmsce,
)
from raylabel.calibration.metrics.bootstrap import BootstrapInterval, bootstrap_interval
from raylabel.calibration.metrics.classwise import classwise_ece
from raylabel.calibration.metrics.equal_mass import (
    adaptive_ccece,
    adaptive_ece,
    class_adaptive_ccece,
    equal_mass_bin_of,
    equal_mass_bins,
)
from raylabel.calibration.metrics.grouped import figures_by_group, size_groups
from raylabel.calibration.metrics.location_errors import box_features, d_ece
from raylabel.calibration.metrics.ranking import (
    PrecisionRecall,
    YieldAtPrecision,
    pooled_average_precision,
    precision_recall,
    yield_at_precision,
)
from raylabel.calibration.results_file import read_detections
from raylabel.calibration.shift.drift import DriftReport, measure_drift
from raylabel.calibration.shift.image_counts import ImageCounts
from raylabel.calibration.shift.pool_accuracy import PoolAccuracy, estimate_pool_accuracy
from raylabel.calibration.tables import CalibrationTables, calibration_tables
from raylabel.calibration.verification import federated_accuracy, weigh_by_verification
from raylabel.config import CORRECTOR_KINDS
from raylabel.dataset.annotations import read_annotations

__all__ = [
    "CORRECTOR_KINDS",
    "BootstrapInterval",
    "CalibrationTables",
    "ClassAccuracy",
    "Corrector",
    "Detections",
    "DriftReport",
    "FitContext",
    "ImageCounts",
    "ImagePredictions",
    "PoolAccuracy",
    "PrecisionRecall",
    "ReliabilityBins",
    "YieldAtPrecision",
    "ace",
    "adaptive_ccece",
    "adaptive_ece",
    "bin_edges",
    "bin_of",
    "bootstrap_interval",
    "box_features",
    "brier",
    "calibration_tables",
    "ccece",
    "class_ace",
    "class_adaptive_ccece",
    "class_bias",
    "class_ccece",
    "class_ccece_debiased",
    "class_mce",
    "class_rmsce",
    "classwise_ece",
    "correct_soft_vectors",
    "corrector_from_json",
    "credible_interval",
    "d_ece",
    "ece",
    "effective_count",
    "equal_mass_bin_of",
    "equal_mass_bins",
    "estimate_pool_accuracy",
    "exact_interval",
    "federated_accuracy",
    "figures_by_group",
    "fit_corrector",
    "group_masks",
    "image_folds",
    "match_image",
    "match_set",
    "mce",
    "mean_bias",
    "measure_drift",
    "nll",
    "out_of_fold_scores",
    "pointwise_nll",
    "pooled_average_precision",
    "precision_recall",
    "read_annotations",
    "read_detections",
    "rmsce",
    "scored_accuracy",
    "size_groups",
    "weigh_by_verification",
    "yield_at_precision",
]
