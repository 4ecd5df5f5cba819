"""Measures of calibration and of ranking."""

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

__all__ = [
    "BootstrapInterval",
    "PrecisionRecall",
    "YieldAtPrecision",
    "ace",
    "adaptive_ccece",
    "adaptive_ece",
    "bootstrap_interval",
    "box_features",
    "brier",
    "ccece",
    "class_ace",
    "class_adaptive_ccece",
    "class_bias",
    "class_ccece",
    "class_ccece_debiased",
    "class_mce",
    "class_rmsce",
    "classwise_ece",
    "credible_interval",
    "d_ece",
    "ece",
    "effective_count",
    "equal_mass_bin_of",
    "equal_mass_bins",
    "figures_by_group",
    "group_masks",
    "mce",
    "mean_bias",
    "nll",
    "pointwise_nll",
    "pooled_average_precision",
    "precision_recall",
    "rmsce",
    "size_groups",
    "yield_at_precision",
]
