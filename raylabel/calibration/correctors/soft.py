"""Correction of full soft vectors."""

import numpy as np
from numpy.typing import NDArray


def correct_soft_vectors(
    soft_vectors: NDArray[np.floating], class_indices: NDArray[np.integer], calibrated_scores: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Put calibrated scores into soft vectors.

    The entry of the predicted class becomes the calibrated score. The other entries, including the background, share
    the remainder in their old proportions. If they are all 0, the remainder goes to the background.

    Args:
        soft_vectors: (N, num_classes + 1), rows sum to 1, background last.
        class_indices: (N,) predicted classes.
        calibrated_scores: (N,) in [0, 1].

    Returns:
        (N, num_classes + 1) float32, rows sum to 1.
    """
    rows = np.arange(len(soft_vectors))
    corrected = np.array(soft_vectors, dtype=np.float64)
    corrected[rows, class_indices] = 0.0
    rest = corrected.sum(axis=1)
    corrected[rest <= 0, -1] = 1.0
    rest = np.where(rest <= 0, 1.0, rest)
    corrected *= ((1.0 - np.asarray(calibrated_scores, dtype=np.float64)) / rest)[:, None]
    corrected[rows, class_indices] = calibrated_scores
    return corrected.astype(np.float32)
