"""Class-wise calibration error of full probability vectors."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raylabel.calibration.bins import bin_of
from raylabel.calibration.metrics.equal_mass import equal_mass_bin_of
from raylabel.calibration.metrics.rows import check_finite, checked_weights


def classwise_ece(
    probabilities: NDArray[np.floating],
    labels: ArrayLike,
    *,
    num_bins: int = 15,
    weights: ArrayLike | None = None,
    equal_mass: bool = False,
) -> NDArray[np.float64]:
    """Return the calibration error of each entry of soft vectors, (C,) in [0, 1]. Its mean is the class-wise ECE.

        error_k = sum_b num_kb / num * |mean of p_k in bin b - share with label k in bin b|
        class-wise ECE = sum_k error_k / C

    Every row counts for every class, by the probability of that class. CCECE differs: it counts each detection once,
    under its predicted class and score, and compares with whether the detection is right. For a rare class nearly all
    p_k are near 0, and rightly so. Class-wise ECE is then small for any detections of the class (it falls as 1 / C).
    CCECE is not diluted in this way.

    The vector errors of torchmetrics and netcal are neither figure: they bin the highest probability only (see `ece`).

    Args:
        probabilities: (N, C) rows that sum to 1. The sum is not checked, so that vectors without background are valid.
        labels: (N,) true class in 0 to C - 1. The background is a class with its own index.
        num_bins: number of bins per class.
        weights: (N,) >= 0. None: ones.
        equal_mass: use bins of equal weight instead of equal width (Nixon's ACE).

    Raises:
        ValueError: there is no row, shapes do not match, a probability is outside [0, 1], or a label is no class.

    Source: Kull et al. 2019 (arXiv 1910.12656), "classwise-ECE". Nixon et al. 2019 (arXiv 1904.01685) call it "static
    calibration error" (SCE), and with bins of equal mass "adaptive calibration error" (ACE).
    """
    vectors = np.asarray(probabilities)
    if vectors.ndim != 2:
        raise ValueError(f"probabilities must have shape (N, C), got {vectors.shape}")
    num, num_classes = vectors.shape
    targets = np.asarray(labels)
    if targets.shape != (num,):
        raise ValueError(f"labels must have shape {(num,)}, one per row of probabilities, got {targets.shape}")
    if not np.issubdtype(targets.dtype, np.integer):
        raise ValueError(f"labels must be whole numbers, got {targets.dtype}")
    rows = checked_weights(weights, num)
    if rows.sum() == 0:
        raise ValueError("no row of probabilities")
    if targets.min() < 0 or targets.max() >= num_classes:
        raise ValueError(f"labels must be in 0 to {num_classes - 1}, got {targets.min()} to {targets.max()}")
    check_finite(vectors, "probabilities")
    if vectors.min() < -1e-6 or vectors.max() > 1 + 1e-6:
        raise ValueError(f"probabilities must be in [0, 1], got {vectors.min():g} to {vectors.max():g}")
    errors = np.zeros(num_classes)
    for index in range(num_classes):
        column = vectors[:, index].astype(np.float64)
        bins = equal_mass_bin_of(column, num_bins, rows) if equal_mass else bin_of(column, num_bins)
        gap = np.bincount(bins, rows * (column - (targets == index)), num_bins)
        errors[index] = np.abs(gap).sum() / rows.sum()
    return errors
