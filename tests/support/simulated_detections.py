"""Simulated detections with known scores and known chances of being right."""

from collections.abc import Callable

import numpy as np

from raylabel.calibration import Detections, FitContext

NUM_CLASSES = 6
GROUPS = np.array(["r", "r", "c", "c", "f", "f"])
GRID = np.linspace(0, 1, 1001)


def context(*, with_similarity: bool = False, num_bins: int = 10) -> FitContext:
    similarity = np.full((NUM_CLASSES, NUM_CLASSES), 0.5) + 0.5 * np.eye(NUM_CLASSES) if with_similarity else None
    return FitContext(
        num_bins=num_bins,
        frequency_groups=GROUPS,
        similarity=similarity,
        num_train_images=np.array([1, 1, 20, 20, 300, 0]) if with_similarity else None,
    )


def simulated(
    seed: int, num: int, accuracy: Callable[[np.ndarray, np.ndarray], np.ndarray], *, num_images: int = 50
) -> Detections:
    """Generate detections that are correct with probability `accuracy(classes, scores)`. Class 5 never occurs."""
    rng = np.random.default_rng(seed)
    classes = rng.choice(5, num, p=[0.02, 0.04, 0.1, 0.24, 0.6]).astype(np.int32)
    scores = rng.beta(0.7, 1.5, num)
    return Detections(
        num_classes=NUM_CLASSES,
        class_indices=classes,
        raw_scores=scores,
        image_indices=rng.integers(0, num_images, num),
        outcomes=(rng.random(num) < accuracy(classes, scores)).astype(np.int8),
        weights=np.ones(num),
    )


def overconfident(classes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return scores**2


def calibrated(classes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return scores


def on_grid(class_index: int) -> Detections:
    return Detections.of_scores(np.full(len(GRID), class_index), GRID, num_classes=NUM_CLASSES)
