"""Targets of pool images, made from predictions."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylabel.calibration.correctors.soft import correct_soft_vectors
from raylabel.models.segmenter import Target
from raylabel.predictions.instances import Instances
from raylabel.training.examples import target_of


@dataclass(frozen=True, kw_only=True)
class PoolTargets:
    """The rules by which predictions become targets. See the matching settings of `StudentConfig`.

    Attributes:
        is_soft: use the soft vector as class target; otherwise 1 for the predicted class.
        is_corrected: use the calibrated score in place of the raw score in the soft vector.
        weight_by_score: weight each object's class loss by its calibrated score.
        weight_by_quality: weight each object's box and mask loss by its mask quality.
        doubtful_score: dropped predictions whose foreground probability (1 - background) reaches this become objects
            of weight 0, so nothing is learnt at their place. Dropped predictions below it become background; with 1
            all of them do.
    """

    is_soft: bool = True
    is_corrected: bool = True
    weight_by_score: bool = False
    weight_by_quality: bool = False
    doubtful_score: float = 1.0

    def of(self, instances: Instances, calibrated_scores: NDArray[np.float32], is_kept: NDArray[np.bool_]) -> Target:
        """Build the target of one image.

        Args:
            instances: the N predictions of the image.
            calibrated_scores: (N,) calibrated scores of the predicted classes.
            is_kept: (N,) whether a prediction is chosen.
        """
        is_doubtful = (1 - instances.soft_vectors[:, -1] >= self.doubtful_score) & (self.doubtful_score < 1)
        is_taken = is_kept | is_doubtful
        taken, scores = instances[is_taken], calibrated_scores[is_taken]
        weights = is_kept[is_taken] * (scores if self.weight_by_score else np.float32(1))
        return target_of(
            taken.image_size_hw,
            taken.boxes_xyxy,
            taken.masks,
            self._class_probs(taken, scores),
            weights.astype(np.float32),
            taken.mask_quality if self.weight_by_quality else np.ones(len(taken), np.float32),
        )

    def _class_probs(self, instances: Instances, calibrated_scores: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self.is_soft:
            return np.eye(instances.soft_vectors.shape[1], dtype=np.float32)[instances.class_indices]
        if not self.is_corrected:
            return instances.soft_vectors
        return correct_soft_vectors(instances.soft_vectors, instances.class_indices, calibrated_scores)
