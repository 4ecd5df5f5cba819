"""Simulated detectors on simulated images. Detections of one image share its topic and its difficulty."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from raylabel.calibration import Detections, ImageCounts, ReliabilityBins

NUM_CLASSES = 24
MIN_SCORE = 0.05
ZIPF = (1 / np.arange(1, NUM_CLASSES + 1)) / (1 / np.arange(1, NUM_CLASSES + 1)).sum()
FLAT = np.full(NUM_CLASSES, 1 / NUM_CLASSES)


def detect(
    rng: np.random.Generator, num_images: int, class_shares: NDArray[np.float64], *, is_blurred: bool = False
) -> Detections:
    """Simulate detections of independent images; `outcomes` are the truth.

    An image has a negative binomial number of objects (mean 6) of a few classes. Its topic chooses these classes around
    `class_shares`. It also has a Poisson number (mean 3) of false detections of any class. False detections have lower
    scores. All scores of an image are raised or lowered together. With `is_blurred`, all scores of objects are lower.
    """
    num_objects = rng.negative_binomial(2.0, 0.25, num_images)
    num_false = rng.poisson(3.0, num_images)
    topics = rng.gamma(3 * class_shares, size=(num_images, len(class_shares))) + 1e-12
    cumulated = (topics / topics.sum(axis=1, keepdims=True)).cumsum(axis=1)
    of_object = np.repeat(np.arange(num_images), num_objects)
    of_false = np.repeat(np.arange(num_images), num_false)
    classes = (rng.random(len(of_object))[:, None] > cumulated[of_object]).sum(axis=1)
    images = np.concatenate([of_object, of_false])
    is_right = np.arange(len(images)) < len(of_object)
    own = np.where(is_right, rng.normal(0.0 if is_blurred else 1.0, 1.2, len(images)), rng.normal(-1.5, 1, len(images)))
    scores = expit(own + rng.normal(0, 0.8, num_images)[images])
    found = scores >= MIN_SCORE
    num_classes = len(class_shares)
    all_classes = np.concatenate(
        [np.minimum(classes, num_classes - 1), rng.integers(0, num_classes, len(of_false))]
    ).astype(np.int32)
    return Detections(
        num_classes=num_classes,
        class_indices=all_classes[found],
        raw_scores=scores[found],
        image_indices=images[found],
        outcomes=is_right[found].astype(np.int8),
        weights=np.ones(int(found.sum())),
    )


def counted(detections: Detections, num_images: int) -> ImageCounts:
    return ImageCounts.from_detections(detections, num_images=num_images, num_bins=50)


def histogram(detections: Detections) -> ReliabilityBins:
    return ReliabilityBins.from_detections(detections, 50)
