"""The live view of a stage as figures: what the bins of its shards so far say of the raw scores."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylabel.calibration.bins import ReliabilityBins
from raylabel.calibration.metrics import ccece, group_masks


def live_figures(
    bins: ReliabilityBins, frequency_groups: NDArray[np.str_], *, is_matched: bool
) -> dict[str, dict[str, Any]]:
    """Figures of the raw scores so far, for all classes and each frequency group.

    Of federated annotations they are provisional: the weights are those of images matched one by one, on which
    `weigh_by_verification` improves once all are there.

    Args:
        bins: of the shards that were counted. Where the truth is unknown, `num_correct` holds the sum of the calibrated
            scores: the number that is right if the corrector is.
        frequency_groups: (num_classes,) "r", "c" or "f".
        is_matched: whether `num_correct` counts matches with the truth.

    Returns:
        "all", "r", "c", "f" (those with a class) -> number of classes with predictions, weight of the predictions, mean
        confidence, and `accuracy`, `ccece`, `ccece_debiased`, or without truth `expected_accuracy` and
        `expected_ccece`. None stands for a figure that no prediction gives.
    """
    return {
        name: _group_figures(bins.of_classes(mask), is_matched=is_matched)
        for name, mask in group_masks(frequency_groups).items()
    }


def _group_figures(bins: ReliabilityBins, *, is_matched: bool) -> dict[str, Any]:
    num = float(bins.num.sum())
    figures = {
        "num_classes": int((bins.num.sum(axis=1) > 0).sum()),
        "num_predictions": num,
        "mean_confidence": float(bins.sum_confidence.sum()) / num if num else None,
    }
    prefix = "" if is_matched else "expected_"
    figures[f"{prefix}accuracy"] = float(bins.num_correct.sum()) / num if num else None
    figures[f"{prefix}ccece"] = ccece(bins, min_count=0) if num else None
    if is_matched:
        figures["ccece_debiased"] = ccece(bins, min_count=0, debiased=True) if num else None
    return figures
