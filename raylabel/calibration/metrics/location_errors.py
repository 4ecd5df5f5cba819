"""Calibration over confidence, position and size."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raylabel.calibration.bins import bin_of
from raylabel.calibration.metrics.rows import check_finite, checked_rows


def d_ece(
    scores: ArrayLike,
    is_correct: ArrayLike,
    features: NDArray[np.floating],
    *,
    num_bins: int | Sequence[int] = 5,
    weights: ArrayLike | None = None,
    min_count: float = 1,
) -> float:
    """Return the detection expected calibration error, in [0, 1], over bins of confidence, position and size together.

        D-ECE = sum over cells of num_cell / num * |confidence_cell - accuracy_cell|

    A cell is a bin of the score and of each feature. K dimensions give num_bins ** K cells. Cells with few detections
    raise the figure by chance, more than in `ece`. `min_count` leaves such cells out of the sum, but not out of `num`.
    The figure equals netcal's `ECE(detection=True)`, except for values on an edge: here they belong to the bin below.

    Args:
        scores: (N,) probabilities of detections that are not ignored.
        is_correct: (N,) outcomes.
        features: (N, K) in [0, 1], such as `box_features`. K = 0 gives `ece`.
        num_bins: bins of equal width: one number for every dimension, or 1 + K numbers, the scores first.
        weights: (N,) >= 0. None: ones.
        min_count: cells of less weight are left out. Küppers et al. use 8.

    Raises:
        ValueError: there is no detection, shapes do not match, or a value is outside [0, 1].

    Source: Küppers et al. 2020 (arXiv 2004.13546).
    """
    confidences, outcomes, rows = checked_rows(scores, is_correct, weights)
    places = np.asarray(features)
    if places.ndim != 2 or len(places) != len(confidences):
        raise ValueError(f"features must have shape ({len(confidences)}, K), got {places.shape}")
    total = rows.sum()
    if total == 0:
        raise ValueError("no detection")
    check_finite(places, "features")
    if places.size and (places.min() < -1e-6 or places.max() > 1 + 1e-6):
        raise ValueError(f"features must be in [0, 1], got {places.min():g} to {places.max():g}")
    num_dimensions = 1 + places.shape[1]
    shape = (num_bins,) * num_dimensions if isinstance(num_bins, int) else tuple(num_bins)
    if len(shape) != num_dimensions or min(shape) < 1:
        raise ValueError(f"num_bins must be a number >= 1 or {num_dimensions} of them, got {num_bins}")
    num_cells = np.prod(shape, dtype=np.float64)
    if num_cells >= 2**62:
        raise ValueError(f"num_bins gives more cells than can be numbered, got {num_bins}")

    cells = bin_of(confidences, shape[0])
    for dimension, num in enumerate(shape[1:]):
        cells = cells * num + bin_of(places[:, dimension], num)
    if num_cells > max(len(confidences), 2**20):
        _, cells = np.unique(cells, return_inverse=True)
    gap = np.abs(np.bincount(cells, rows * (confidences - outcomes)))
    is_counted = np.bincount(cells, rows) >= min_count
    return float(gap[is_counted].sum() / total)


def box_features(boxes_xyxy: ArrayLike, image_sizes_hw: ArrayLike) -> NDArray[np.float64]:
    """Return boxes relative to their images, (N, 4) in [0, 1]: centre x, centre y, width, height.

    Args:
        boxes_xyxy: (N, 4) in pixels. Parts outside the image are cut off.
        image_sizes_hw: (N, 2) or (2,) height and width of the images in pixels.

    Raises:
        ValueError: a shape is wrong, a value is not finite, or an image has no area.

    Source: the features of Küppers et al. 2020 (arXiv 2004.13546).
    """
    boxes = np.asarray(boxes_xyxy, dtype=np.float64)
    sizes = np.asarray(image_sizes_hw, dtype=np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes_xyxy must have shape (N, 4), got {boxes.shape}")
    if sizes.shape not in ((2,), (len(boxes), 2)):
        raise ValueError(f"image_sizes_hw must have shape (2,) or {(len(boxes), 2)}, got {sizes.shape}")
    check_finite(boxes, "boxes_xyxy")
    if not (sizes > 0).all():
        raise ValueError("image_sizes_hw must be > 0")
    corners = np.clip(boxes.reshape(-1, 2, 2) / sizes[..., None, ::-1], 0, 1)
    return np.concatenate([corners.mean(axis=1), np.abs(corners[:, 1] - corners[:, 0])], axis=1)
