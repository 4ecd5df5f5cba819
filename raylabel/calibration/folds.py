"""Cross-validation with folds by image: detections of one image are never on both sides."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from raylabel.calibration.corrector import Corrector
from raylabel.calibration.detections import Detections

NUM_FOLDS = 5


def image_folds(image_indices: NDArray[np.integer], *, seed: int, num_folds: int = NUM_FOLDS) -> NDArray[np.int64]:
    """Fold of each detection, (N,): images are shuffled by `seed` and dealt out in turn.

    Fewer images than folds give as many folds as images.
    """
    images, places = np.unique(image_indices, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(images))
    return (order % num_folds)[places]


def out_of_fold_scores(
    detections: Detections, folds: NDArray[np.int64], fit: Callable[[Detections], Corrector]
) -> NDArray[np.float64]:
    """Calibrated scores, (N,), each from a corrector that was fitted without the detection's fold.

    Args:
        detections: with known outcomes; ignored ones get scores too.
        folds: (N,) from `image_folds`.
        fit: fits a corrector to part of the detections, which may be none.
    """
    scores = np.empty(len(detections))
    for fold in np.unique(folds):
        held_out = folds == fold
        scores[held_out] = fit(detections.subset(~held_out))(detections.subset(held_out))
    return scores
