"""Cross-validation with folds by image: detections of one image are never on both sides."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from raylabel.calibration.correctors.base import Corrector
from raylabel.calibration.detections import Detections

NUM_FOLDS = 5

MAX_TRIAL_DETECTIONS = 100_000
"""What is only tried, out of fold, is tried on so many detections at most: more would only sharpen a plain answer."""


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


def some_images(detections: Detections, num: int, *, seed: int) -> Detections:
    """Detections of images drawn at random, `num` at most (but of one image at least); all where there are fewer."""
    if len(detections) <= num:
        return detections
    _, images = np.unique(detections.image_indices, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(images.max() + 1)
    totals = np.cumsum(np.bincount(images)[shuffled])
    is_drawn = np.zeros(len(shuffled), dtype=bool)
    is_drawn[shuffled[: max(1, int(np.searchsorted(totals, num, side="right")))]] = True
    return detections.subset(is_drawn[images])
