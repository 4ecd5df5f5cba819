"""Counts by image: by hand, by brute force, and as sums that merge."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_world import counted, detect
from raylabel.calibration import Detections, ImageCounts
from raylabel.calibration.bins import bin_of
from raylabel.calibration.shift.image_counts import design_effect, equal_shares, residual_products


def detections_of(seed: int, num: int, num_images: int) -> Detections:
    rng = np.random.default_rng(seed)
    detections = Detections.of_scores(rng.integers(0, 3, num), rng.random(num), num_classes=3)
    return replace(detections, image_indices=rng.integers(0, max(1, num_images), num) * 7)


@settings(deadline=None)
@given(seed=st.integers(0, 99), num=st.integers(0, 60), num_images=st.integers(1, 12))
def test_equals_a_loop_over_images(seed: int, num: int, num_images: int) -> None:
    detections = detections_of(seed, num, num_images)
    counts = ImageCounts.from_detections(detections, num_images=num_images, num_bins=6)
    expected_num, expected_products, expected_with = np.zeros((3, 6)), np.zeros((3, 6, 6)), np.zeros(3)
    bins = bin_of(detections.raw_scores, 6)
    for image in np.unique(detections.image_indices):
        for index in range(3):
            rows = (detections.image_indices == image) & (detections.class_indices == index)
            of_image = np.bincount(bins[rows], minlength=6)
            expected_num[index] += of_image
            expected_products[index] += np.outer(of_image, of_image)
            expected_with[index] += rows.any()
    np.testing.assert_array_equal(counts.num, expected_num)
    np.testing.assert_array_equal(counts.products, expected_products)
    np.testing.assert_array_equal(counts.num_images_with, expected_with)
    assert counts.num_images == num_images


@settings(deadline=None)
@given(seed=st.integers(0, 99), cut=st.integers(0, 12))
def test_parts_merge_to_the_whole(seed: int, cut: int) -> None:
    detections = detections_of(seed, 60, 12)
    is_first = detections.image_indices < 7 * cut
    parts = [
        ImageCounts.from_detections(detections.subset(rows), num_images=num, num_bins=6)
        for rows, num in ((is_first, cut), (~is_first, 12 - cut))
    ]
    whole = ImageCounts.from_detections(detections, num_images=12, num_bins=6)
    for merged in (parts[0] + parts[1], parts[1] + parts[0], whole + ImageCounts.zeros(3, 6)):
        for name, value in vars(whole).items():
            np.testing.assert_array_equal(getattr(merged, name), value)


def test_joined_bins_are_bins_that_were_joined() -> None:
    detections = detections_of(0, 200, 30)
    fine = ImageCounts.from_detections(detections, num_images=30, num_bins=6)
    coarse = ImageCounts.from_detections(detections, num_images=30, num_bins=3)
    num, products = fine.joined(1, np.array([0, 0, 1, 1, 2, 2]))
    np.testing.assert_array_equal(num, coarse.num[1])
    np.testing.assert_array_equal(products, coarse.products[1])


def test_residual_products_by_hand() -> None:
    # Two images with counts (2, 0) and (1, 1): shares (3/4, 1/4), residuals (2 - 3/2, 0 - 1/2) and (1 - 3/2, 1 - 1/2).
    num, products = np.array([3.0, 1.0]), np.array([[5.0, 1.0], [1.0, 1.0]])
    np.testing.assert_allclose(residual_products(num, products), [[0.5, -0.5], [-0.5, 0.5]])


def test_design_effect_of_independent_and_of_copied_detections() -> None:
    rng = np.random.default_rng(0)
    num = 4000
    alone = Detections.of_scores(rng.integers(0, 3, num), rng.random(num), num_classes=3)
    independent = replace(alone, image_indices=np.arange(num) // 4)
    copied = alone.subset(np.repeat(np.arange(num), 3))
    copied = replace(copied, image_indices=np.repeat(np.arange(num), 3))
    assert design_effect(counted(independent, num)) == pytest.approx(1, abs=0.05)
    assert design_effect(counted(copied, num)) == pytest.approx(3, abs=0.05)
    assert design_effect(ImageCounts.zeros(3, 6)) == 1
    alike = detect(rng, 500, np.array([0.6, 0.4]))
    assert design_effect(ImageCounts.from_detections(alike, num_images=500, num_bins=5)) > 1.1


def test_design_effect_by_hand() -> None:
    """The same two images: their residuals have the variance 2 / 1 * (0.5 + 0.5), and 4 * (1 - 9/16 - 1/16) alone.

    A class in a single image does not count.
    """
    scores = Detections.of_scores([0, 0, 0, 0, 1, 1], [0.2, 0.2, 0.2, 0.8, 0.2, 0.8], num_classes=2)
    of_two = replace(scores, image_indices=np.array([0, 0, 1, 1, 1, 1]))
    assert design_effect(ImageCounts.from_detections(of_two, num_images=2, num_bins=2)) == pytest.approx(2 / 1.5)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="num_images must be >= the 3 images"):
        ImageCounts.from_detections(
            replace(Detections.of_scores([0, 0, 0], [0.1, 0.2, 0.3], num_classes=1), image_indices=np.arange(3)),
            num_images=2,
            num_bins=5,
        )


def test_equal_shares_join_neighbours() -> None:
    assert equal_shares(np.array([3.0, 3, 0, 1, 5]), 3).tolist() == [0, 0, 1, 1, 1]
    assert equal_shares(np.array([0.0, 9, 0, 2, 1]), 2).tolist() == [0, 0, 0, 0, 0], "a small remainder forms no group"
    assert equal_shares(np.zeros(3), 1).tolist() == [0, 0, 0]
