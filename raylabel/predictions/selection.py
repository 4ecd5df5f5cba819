"""Selection of the predictions that become pseudo-labels, with a counted reason for each dropped one."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylabel.config import SelectionConfig

REASONS = ("score", "mask_quality", "area", "max_per_image")
"""Why a prediction is dropped, in the order in which the rules are tried."""

KEPT = -1


@dataclass(frozen=True)
class Selection:
    """What became of each prediction.

    Attributes:
        fates: (N,) int8: the place in REASONS of the first rule that drops the prediction, or KEPT.
    """

    fates: NDArray[np.int8]

    @property
    def keep(self) -> NDArray[np.bool_]:
        """(N,) whether the prediction is kept."""
        return self.fates == KEPT

    @property
    def dropped(self) -> dict[str, int]:
        """Reason -> number of predictions. Each counts once, for the first reason that applies."""
        counts = np.bincount(self.fates[~self.keep], minlength=len(REASONS))
        return dict(zip(REASONS, counts.tolist(), strict=True))


def score_thresholds(config: SelectionConfig, frequency_groups: NDArray[np.str_]) -> NDArray[np.float64]:
    """Return the smallest calibrated score of a pseudo-label of each class, (num_classes,)."""
    thresholds = np.full(len(frequency_groups), config.min_score)
    for letter, threshold in config.min_score_by_group.items():
        thresholds[frequency_groups == letter] = threshold
    return thresholds


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
        calibrated_scores: (N,) in [0, 1]. The thresholds are `score_thresholds`.
        class_indices: (N,) predicted classes.
        mask_quality: (N,) in [0, 1].
        mask_areas: (N,) in pixels.
        config: thresholds. A value equal to its threshold passes.
        frequency_groups: (num_classes,) "r", "c" or "f".
        image_lengths: number of predictions per image, one image after the other. None means that all predictions
            belong to one image.
    """
    class_thresholds = score_thresholds(config, frequency_groups)
    fails = {
        "score": calibrated_scores < class_thresholds[class_indices].astype(calibrated_scores.dtype),
        "mask_quality": mask_quality < np.asarray(config.min_mask_quality, dtype=mask_quality.dtype),
        "area": mask_areas < config.min_area,
    }
    fates = np.full(len(calibrated_scores), KEPT, dtype=np.int8)
    for reason, failed in fails.items():
        fates[(fates == KEPT) & failed] = REASONS.index(reason)
    passed = np.flatnonzero(fates == KEPT)
    lengths = np.array([len(fates)]) if image_lengths is None else image_lengths
    images = np.repeat(np.arange(len(lengths)), lengths)[passed]
    best_first = np.lexsort((-calibrated_scores[passed], images))  # stable, because the first of equal scores is kept
    num_passed = np.bincount(images, minlength=len(lengths))
    ranks = np.arange(len(passed)) - np.repeat(np.cumsum(num_passed) - num_passed, num_passed)
    fates[passed[best_first[ranks >= config.max_per_image]]] = REASONS.index("max_per_image")
    return Selection(fates)
