"""Correction of full soft vectors."""

import numpy as np
from numpy.typing import NDArray


def correct_soft_vectors(
    soft_vectors: NDArray[np.floating], class_indices: NDArray[np.integer], calibrated_scores: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Put calibrated scores into soft vectors.

    The entry of the predicted class becomes the calibrated score. What it loses goes to the background: a wrong score
    says nothing for the other classes. What it gains is taken from all other entries, in their old proportions.

    Args:
        soft_vectors: (N, num_classes + 1), rows sum to 1, background last.
        class_indices: (N,) predicted classes.
        calibrated_scores: (N,) in [0, 1].

    Returns:
        (N, num_classes + 1) float32, rows sum to 1.
    """
    rows = np.arange(len(soft_vectors))
    corrected = np.array(soft_vectors, dtype=np.float64)
    scores = np.asarray(calibrated_scores, dtype=np.float64)
    raw_scores = corrected[rows, class_indices]
    corrected[rows, class_indices] = 0.0
    corrected *= np.minimum(1.0, (1.0 - scores) / np.maximum(1.0 - raw_scores, _TINY))[:, None]
    corrected[rows, class_indices] = scores
    corrected[:, -1] += np.maximum(1.0 - corrected.sum(axis=1), 0.0)
    return corrected.astype(np.float32)


_TINY = 1e-12
