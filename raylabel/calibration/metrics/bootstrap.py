"""Intervals of any figure, by resampling of images."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class BootstrapInterval(NamedTuple):
    """A percentile interval.

    Attributes:
        low: lower end.
        high: upper end.
        num: number of draws that gave a figure.
    """

    low: float
    high: float
    num: int


def bootstrap_interval(
    figure: Callable[[NDArray[np.float64]], float | None],
    image_indices: NDArray[np.integer],
    *,
    num: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> BootstrapInterval:
    """Compute the percentile interval of a figure over draws of the images, with replacement.

    Detections of one image are drawn together, because they share the scene. Rows drawn alone would give intervals that
    are too narrow. A draw is one weight per row: how often its image was drawn. No row is copied. For example:

        bootstrap_interval(lambda times: nll(scores, is_correct, weights * times), image_indices)

    A figure of detections and objects takes the rows of both. It then covers images without a detection too:

        rows = np.concatenate([image_indices, object_image_indices])
        bootstrap_interval(lambda times: pooled_average_precision(
            scores, is_correct, times[n:].sum(), weights=weights * times[:n]), rows)

    Args:
        figure: function of weights of shape (N,), whole numbers >= 0 as float64. It returns the figure, or None if the
            draw gives none (a group was not drawn). Draws with None are left out.
        image_indices: (N,) image of each row. Any numbering is valid.
        num: number of draws.
        level: share of draws inside the interval.
        seed: seed of the draws. The same seed draws the same images for every figure.

    Raises:
        ValueError: there is no row, `num` < 1, the level is outside (0, 1), or no draw gives a figure.

    Source: Efron 1979. Whole clusters are resampled as in Field and Welsh 2007.
    """
    if len(image_indices) == 0:
        raise ValueError("no row to resample")
    if num < 1:
        raise ValueError(f"num must be >= 1, got {num}")
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level:g}")
    _, image_of_row = np.unique(image_indices, return_inverse=True)
    num_images = int(image_of_row.max()) + 1
    rng = np.random.default_rng(seed)
    figures: list[float] = []
    for _ in range(num):
        times = np.bincount(rng.integers(0, num_images, num_images), minlength=num_images)
        value = figure(times[image_of_row].astype(np.float64))
        if value is not None and not np.isnan(value):
            figures.append(float(value))
    if not figures:
        raise ValueError(f"none of the {num} draws gives a figure")
    low, high = np.quantile(figures, [(1 - level) / 2, (1 + level) / 2])
    return BootstrapInterval(float(low), float(high), len(figures))
