"""Counts of detections by class and confidence bin that keep the dependence within an image."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylabel.calibration.bins import bin_of
from raylabel.calibration.detections import Detections


@dataclass(frozen=True, kw_only=True)
class ImageCounts:
    """Sums over images of n_c and of the products n_c n_c^T, with n_c the counts by bin of an image's class c.

    Counts merge by `+`. The products give the scatter between images, for these bins and for joined bins. The scatter
    matters because detections of one image are not independent.

    Attributes:
        num_images: number of images, including those without a detection.
        num: (num_classes, num_bins) detections.
        products: (num_classes, num_bins, num_bins) sums over images of the products of two bins' counts.
        num_images_with: (num_classes,) images with a detection of the class.
    """

    num_images: int
    num: NDArray[np.float64]
    products: NDArray[np.float64]
    num_images_with: NDArray[np.int64]

    @staticmethod
    def from_detections(detections: Detections, *, num_images: int, num_bins: int) -> "ImageCounts":
        """Count every detection as one, for any outcome and weight.

        Args:
            detections: detections. Those with the same `image_indices` share an image.
            num_images: number of images, including those without a detection.
            num_bins: number of bins of equal width over (0, 1].

        Raises:
            ValueError: the detections come from more than `num_images` images.
        """
        images, image_of = np.unique(detections.image_indices, return_inverse=True)
        if len(images) > num_images:
            raise ValueError(f"num_images must be >= the {len(images)} images with a detection, got {num_images}")
        num_classes = detections.num_classes
        places = (image_of * num_classes + detections.class_indices) * num_bins + bin_of(
            detections.raw_scores, num_bins
        )
        cells, cell_counts = np.unique(places, return_counts=True)
        pairs, cell_bins = np.divmod(cells, num_bins)
        pair_starts = np.flatnonzero(np.diff(pairs, prepend=-1))
        pair_lengths = np.diff(np.append(pair_starts, len(cells)))
        # All pairs of cells within an (image, class) pair, because the products sum over them.
        partners = np.repeat(pair_lengths, pair_lengths)
        left = np.repeat(np.arange(len(cells)), partners)
        right = np.arange(len(left)) + np.repeat(
            np.repeat(pair_starts, pair_lengths) - np.cumsum(partners) + partners, partners
        )
        cell_classes = pairs % num_classes
        where = (cell_classes[left] * num_bins + cell_bins[left]) * num_bins + cell_bins[right]
        shape = (num_classes, num_bins)
        return ImageCounts(
            num_images=num_images,
            num=_sums(cell_classes * num_bins + cell_bins, cell_counts, shape),
            products=_sums(where, cell_counts[left] * cell_counts[right], (*shape, num_bins)),
            num_images_with=np.bincount(cell_classes[pair_starts], minlength=num_classes),
        )

    @staticmethod
    def zeros(num_classes: int, num_bins: int) -> "ImageCounts":
        """Return the counts of no image, the identity of `+`."""
        return ImageCounts.from_detections(Detections.empty(num_classes), num_images=0, num_bins=num_bins)

    def __add__(self, other: "ImageCounts") -> "ImageCounts":
        """Add the counts of two sets of images. The sets must be disjoint."""
        return ImageCounts(
            num_images=self.num_images + other.num_images,
            num=self.num + other.num,
            products=self.products + other.products,
            num_images_with=self.num_images_with + other.num_images_with,
        )

    @property
    def num_classes(self) -> int:
        return int(self.num.shape[0])

    @property
    def num_bins(self) -> int:
        return int(self.num.shape[1])

    @property
    def num_detections(self) -> NDArray[np.float64]:
        """(num_classes,) detections of each class."""
        return self.num.sum(axis=1)

    def joined(self, class_index: int, groups: NDArray[np.integer]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return counts (K,) and products (K, K) of a class after joining bins. `groups` (num_bins,) are 0 to K - 1."""
        to_group = np.eye(int(groups.max()) + 1)[groups]
        return self.num[class_index] @ to_group, to_group.T @ self.products[class_index] @ to_group


def residual_products(num: NDArray[np.float64], products: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the scatter of images about the common shape, (..., K, K): sum over images of r r^T, r = n_i - |n_i| p.

    p = num / sum(num) are the shares of the bins, n_i the counts of image i, and |n_i| their sum. For independent
    detections the result is sum(num) * (diag(p) - p p^T). All rows and columns sum up to 0.

    Args:
        num: (..., K) counts.
        products: (..., K, K) products of the same counts.
    """
    shares = num / np.maximum(num.sum(axis=-1, keepdims=True), 1e-300)
    row_sums = products.sum(axis=-1)
    crossed = row_sums[..., :, None] * shares[..., None, :]
    outer = shares[..., :, None] * shares[..., None, :]
    return products - crossed - np.swapaxes(crossed, -1, -2) + row_sums.sum(axis=-1)[..., None, None] * outer


def design_effect(counts: ImageCounts) -> float:
    """Return the scatter of score histograms between images, relative to independent detections, >= 1.

    It is one figure over all classes: the sum of the residual variances divided by the sum expected under independence.
    Only classes that occur in at least two images count, with a factor n / (n - 1) for n images. Without such a class
    the figure is 1.

    Source: Kish 1965; Rao and Scott 1981.
    """
    used = counts.num_images_with >= 2
    if not used.any():
        return 1.0
    num, images = counts.num[used], counts.num_images_with[used]
    found = np.trace(residual_products(num, counts.products[used]), axis1=1, axis2=2) * images / (images - 1)
    shares = num / num.sum(axis=1, keepdims=True)
    expected = num.sum(axis=1) * (1 - (shares**2).sum(axis=1))
    return max(1.0, float(found.sum() / expected.sum())) if expected.sum() > 0 else 1.0


def equal_shares(counts: NDArray[np.float64], num_groups: int) -> NDArray[np.int64]:
    """Return the group of each bin, (num_bins,), rising from 0. Neighbours are joined until a group has its share."""
    groups = np.zeros(len(counts), dtype=np.int64)
    if num_groups < 2:
        return groups
    share, filled, group = counts.sum() / num_groups, 0.0, 0
    for place, count in enumerate(counts):
        groups[place] = group
        filled += count
        if filled >= share:
            group, filled = group + 1, 0.0
    if filled < share and group > 0:
        groups[groups == group] = group - 1
    return groups


def _sums(where: NDArray[np.integer], counts: NDArray[np.integer], shape: tuple[int, ...]) -> NDArray[np.float64]:
    return np.bincount(where, counts, int(np.prod(shape))).astype(np.float64).reshape(shape)
