"""Cross-validation with folds by image. Detections of one image are never on both sides."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from raylabel.calibration.correctors.base import Corrector
from raylabel.calibration.detections import Detections

NUM_FOLDS = 5

MAX_TRIAL_DETECTIONS = 100_000
"""Largest number of detections in an out-of-fold trial. More would only sharpen a clear answer."""


def image_folds(image_indices: NDArray[np.integer], *, seed: int, num_folds: int = NUM_FOLDS) -> NDArray[np.int64]:
    """Return the fold of each detection, (N,). Images are shuffled by `seed` and dealt out in turn.

    With fewer images than folds, each image is one fold.
    """
    images, places = np.unique(image_indices, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(images))
    return (order % num_folds)[places]


def out_of_fold_scores(
    detections: Detections, folds: NDArray[np.int64], fit: Callable[[Detections], Corrector]
) -> NDArray[np.float64]:
    """Return calibrated scores, (N,), each from a corrector that was fitted without the detection's fold.

    Args:
        detections: detections with known outcomes. Ignored detections get scores too.
        folds: (N,) from `image_folds`.
        fit: function that fits a corrector to a part of the detections. The part may be empty.
    """
    scores = np.empty(len(detections))
    for fold in np.unique(folds):
        held_out = folds == fold
        scores[held_out] = fit(detections.subset(~held_out))(detections.subset(held_out))
    return scores


def some_images(detections: Detections, num: int, *, seed: int) -> Detections:
    """Draw images at random, with at most `num` detections but at least one image. Return all if there are fewer."""
    if len(detections) <= num:
        return detections
    _, images = np.unique(detections.image_indices, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(images.max() + 1)
    totals = np.cumsum(np.bincount(images)[shuffled])
    is_drawn = np.zeros(len(shuffled), dtype=bool)
    is_drawn[shuffled[: max(1, int(np.searchsorted(totals, num, side="right")))]] = True
    return detections.subset(is_drawn[images])
