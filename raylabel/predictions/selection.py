"""Selection of the predictions that become pseudo-labels, with a counted reason for each dropped one."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylabel.config import SelectionConfig


@dataclass(frozen=True)
class Selection:
    """The kept predictions, and the number of dropped ones per reason.

    Attributes:
        keep: (N,) bool.
        dropped: reason -> number of predictions. Each counts once, for the first reason that applies.
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
    """Select the pseudo-labels of one image or of many at once.

    Predictions must pass all thresholds. Each image keeps the `config.max_per_image` passing predictions with the
    highest calibrated scores. Among equal scores, the first is kept.

    Args:
        calibrated_scores: (N,) in [0, 1]. The threshold is `config.min_score`, or that of the class's frequency group
            in `config.min_score_by_group`.
        class_indices: (N,) predicted classes.
        mask_quality: (N,) in [0, 1].
        mask_areas: (N,) in pixels.
        config: thresholds. A value equal to its threshold passes.
        frequency_groups: (num_classes,) "r", "c" or "f".
        image_lengths: number of predictions per image, one image after the other. None means that all predictions
            belong to one image.
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
    best_first = np.lexsort((-calibrated_scores[passed], images))  # stable, because the first of equal scores is kept
    num_passed = np.bincount(images, minlength=len(lengths))
    ranks = np.arange(len(passed)) - np.repeat(np.cumsum(num_passed) - num_passed, num_passed)
    too_many = passed[best_first[ranks >= config.max_per_image]]
    keep[too_many] = False
    dropped["max_per_image"] = len(too_many)
    return Selection(keep, dropped)
