"""Repeat-factor sampling: images with rare classes are drawn more often."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def repeat_factors(image_classes: Sequence[NDArray[Any]], num_classes: int, threshold: float) -> NDArray[np.float64]:
    """Return how often each image is drawn, shape (num_images,), at least 1.

    Let f_c be the share of images that show class c, and r_c = max(1, sqrt(threshold / f_c)). An image's factor is the
    largest r_c of its classes, or 1 without a class.

    Args:
        image_classes: class indices of each image.
        num_classes: number of classes.
        threshold: share of images; classes in fewer images are repeated. 0 repeats none.

    Source: Gupta et al., LVIS: A Dataset for Large Vocabulary Instance Segmentation, 2019 (arXiv 1908.03195), sec. 4.
    """
    of_class = class_repeat_factors(image_classes, num_classes, threshold)
    images, classes = _pairs(image_classes)
    factors = np.ones(len(image_classes))
    np.maximum.at(factors, images, of_class[classes])
    return factors


def class_repeat_factors(
    image_classes: Sequence[NDArray[Any]], num_classes: int, threshold: float
) -> NDArray[np.float64]:
    """Return r_c of `repeat_factors`, shape (num_classes,), at least 1. A class in no image counts as in one image."""
    images, classes = _pairs(image_classes)
    keys = images * num_classes + classes
    if (np.diff(keys) <= 0).any():  # unless each image's classes are sorted and unique, as an annotated set has them
        classes = np.unique(keys) % num_classes
    counts = np.bincount(classes, minlength=num_classes)
    return repeat_factors_of_counts(counts, num_images=len(image_classes), threshold=threshold)


def _pairs(image_classes: Sequence[NDArray[Any]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return image and class of each entry."""
    images = np.repeat(np.arange(len(image_classes)), [len(classes) for classes in image_classes])
    return images, np.concatenate([np.zeros(0, np.int64), *image_classes]).astype(np.int64)


def repeat_factors_of_counts(
    image_counts: NDArray[np.number[Any]], *, num_images: int, threshold: float
) -> NDArray[np.float64]:
    """Return r_c of `repeat_factors` from the (num_classes,) numbers of images that show each class."""
    return np.maximum(1.0, np.sqrt(threshold * num_images / np.maximum(image_counts, 1)))


class RepeatFactorSampler:
    """Sampler of batches of image indices, in which image i appears in proportion to its factor.

    A batch depends on the seed and the step alone, so a training resumes exactly at any step. Every epoch has
    ceil(sum of factors) draws by systematic resampling. Each image is drawn floor or ceil of its expected number of
    times, in random order.

    Args:
        factors: (num_images,), at least 1; see `repeat_factors`.
        batch_size: images per batch.
        seed: non-negative.
    """

    def __init__(self, factors: NDArray[np.float64], batch_size: int, seed: int) -> None:
        if len(factors) == 0 or batch_size < 1:
            raise ValueError(f"sampler needs images and batch_size >= 1, got {len(factors)} and {batch_size}")
        self.batch_size = batch_size
        self.seed = seed
        self._ends = np.cumsum(factors)
        self.epoch_length = int(np.ceil(self._ends[-1]))
        self._latest: tuple[int, NDArray[np.int64]] | None = None

    def batch(self, step: int) -> NDArray[np.int64]:
        """Return the (batch_size,) image indices of a step. A batch may span two epochs."""
        draws = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, places = np.divmod(draws, self.epoch_length)
        return np.array([self._epoch(int(epoch))[place] for epoch, place in zip(epochs, places, strict=True)])

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        if self._latest is None or self._latest[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch])
            spacing = self._ends[-1] / self.epoch_length
            positions = (np.arange(self.epoch_length) + rng.uniform()) * spacing
            order = np.minimum(np.searchsorted(self._ends, positions, side="right"), len(self._ends) - 1)
            self._latest = epoch, rng.permutation(order)
        return self._latest[1]
