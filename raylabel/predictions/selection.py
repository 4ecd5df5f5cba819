"""Which predictions become pseudo-labels, and why the others don't."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylabel.config import SelectionConfig


@dataclass(frozen=True)
class Selection:
    """What was kept.

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
    image_lengths: NDArray[np.integer] | None = None,
) -> Selection:
    """Select the pseudo-labels of one image, or of many at once.

    Args:
        calibrated_scores: (N,) in [0, 1]; at least `config.min_score`, or what `config.min_score_by_group` says for the
            class's frequency group.
        class_indices: (N,) predicted classes.
        mask_quality: (N,) in [0, 1].
        mask_areas: (N,) pixels.
        config: the thresholds; a value that equals one is kept.
        frequency_groups: (num_classes,) "r", "c" or "f".
        image_lengths: how many predictions each image has, one image after the other; all are of one image where None.

    Of what passes, the best `config.max_per_image` of each image by calibrated score are kept; of equal ones the first.
    """
    class_thresholds = np.full(len(frequency_groups), config.min_score)
    for letter, threshold in config.min_score_by_group.items():
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
    lengths = np.array([len(keep)]) if image_lengths is None else image_lengths
    images = np.repeat(np.arange(len(lengths)), lengths)[passed]
    best_first = np.lexsort((-calibrated_scores[passed], images))  # stable: of equal ones the first
    num_passed = np.bincount(images, minlength=len(lengths))
    ranks = np.arange(len(passed)) - np.repeat(np.cumsum(num_passed) - num_passed, num_passed)
    too_many = passed[best_first[ranks >= config.max_per_image]]
    keep[too_many] = False
    dropped["max_per_image"] = len(too_many)
    return Selection(keep, dropped)
