"""Which predictions become pseudo-labels, and why the others don't."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylabel.config import SelectionConfig


@dataclass(frozen=True)
class Selection:
    """What was kept of one image.

    Attributes:
        keep: (N,) bool.
        dropped: reason -> number of predictions; each dropped one counts once, for the first reason that applies.
    """

    keep: NDArray[np.bool_]
    dropped: dict[str, int]


def select(
    *,
    calibrated_scores: NDArray[np.floating],
    class_indices: NDArray[np.integer],
    mask_quality: NDArray[np.floating],
    mask_areas: NDArray[np.integer],
    config: SelectionConfig,
    frequency_groups: NDArray[np.str_],
) -> Selection:
    """Select one image's pseudo-labels.

    Args:
        calibrated_scores: (N,) in [0, 1]; at least `config.min_score`, or what `config.min_score_by_group` says for the
            class's frequency group.
        class_indices: (N,) predicted classes.
        mask_quality: (N,) in [0, 1].
        mask_areas: (N,) pixels.
        config: the thresholds; a value that equals one is kept.
        frequency_groups: (num_classes,) "r", "c" or "f".

    Of what passes, the best `config.max_per_image` by calibrated score are kept; of equal ones the first.
    """
    thresholds = {letter: config.min_score_by_group.get(letter, config.min_score) for letter in ("r", "c", "f")}
    class_thresholds = np.full(len(frequency_groups), config.min_score)
    for letter, threshold in thresholds.items():
        class_thresholds[frequency_groups == letter] = threshold
    fails = {
        "score": calibrated_scores < class_thresholds[class_indices].astype(calibrated_scores.dtype),
        "mask_quality": mask_quality < np.asarray(config.min_mask_quality, dtype=mask_quality.dtype),
        "area": mask_areas < config.min_area,
    }
    keep = np.ones(len(calibrated_scores), dtype=bool)
    dropped = {}
    for reason, failed in fails.items():
        dropped[reason] = int((keep & failed).sum())
        keep &= ~failed
    passed = np.flatnonzero(keep)
    best_first = passed[np.argsort(-calibrated_scores[passed], kind="stable")]
    keep[best_first[config.max_per_image :]] = False
    dropped["max_per_image"] = max(0, len(passed) - config.max_per_image)
    return Selection(keep, dropped)
