"""The corrector `hierarchical`: few samples follow their parent, many follow the data."""

import numpy as np
import pytest

from raylabel.calibration import Detections, FitContext, fit_corrector
from raylabel.calibration.correctors.hierarchical import HierarchicalCorrector
from simulated_detections import GRID, GROUPS, NUM_CLASSES, calibrated, context, on_grid, simulated


def test_hierarchical_shrinks_few_samples_to_the_parent() -> None:
    """Add one wrong detection of class 5 at a score at which the others are right."""
    detections = simulated(0, 4000, calibrated)
    one = Detections.of_scores([5], [0.9], num_classes=NUM_CLASSES)
    one = Detections(**(vars(one) | {"outcomes": np.zeros(1, dtype=np.int8), "image_indices": np.array([99])}))
    both = Detections.concat([detections, one])
    without, with_one = (fit_corrector("hierarchical", part, context=context()) for part in (detections, both))
    before, after = float(without(one)[0]), float(with_one(one)[0])
    assert before == pytest.approx(0.9, abs=0.05)
    assert before - 0.15 < after < before, "one detection moves it a little"
    naive = fit_corrector("ccece", both, context=context())
    assert naive(one)[0] == pytest.approx(0.0009), "the per-class bias moves it nearly to 0"


def test_hierarchical_gives_an_unseen_class_its_group() -> None:
    """In group f (classes 3 to 5) accuracy is half the score; the others are calibrated. Class 5 is never seen."""
    detections = simulated(0, 20_000, lambda classes, scores: np.where(classes >= 3, scores / 2, scores))
    groups = FitContext(num_bins=10, frequency_groups=np.array(["r", "r", "c", "f", "f", "f"]))
    corrector = fit_corrector("hierarchical", detections, context=groups)
    scores = [float(corrector(on_grid(row))[800]) for row in range(NUM_CLASSES)]
    assert scores[2] == pytest.approx(0.8, abs=0.08)
    assert scores[4] == pytest.approx(0.4, abs=0.08)
    assert scores[5] == pytest.approx(0.4, abs=0.08)


def test_hierarchical_borrows_from_similar_classes() -> None:
    """Class 0 is rare. Class 4 of another group is similar to it, and is wrong more often than the rest."""
    detections = simulated(0, 20_000, lambda classes, scores: np.where(np.isin(classes, [0, 4]), scores / 3, scores))
    similarity = np.eye(NUM_CLASSES)
    similarity[0, 4] = similarity[4, 0] = similarity[2, 3] = similarity[3, 2] = 0.95
    few = detections.subset((detections.class_indices != 0) | (np.arange(len(detections)) % 40 == 0))
    alone = fit_corrector("hierarchical", few, context=context())
    borrowing = fit_corrector(
        "hierarchical", few, context=FitContext(num_bins=10, frequency_groups=GROUPS, similarity=similarity)
    )
    errors = [np.abs(one(on_grid(0))[100:900] - GRID[100:900] / 3).mean() for one in (alone, borrowing)]
    assert errors[1] < 0.7 * errors[0]


def test_hierarchical_believes_many_samples() -> None:
    detections = simulated(0, 60_000, lambda classes, scores: np.where(classes == 3, scores**3, scores))
    corrector = HierarchicalCorrector.fit(detections, context())
    assert np.abs(corrector(on_grid(3))[100:900] - GRID[100:900] ** 3).max() < 0.06
    assert np.abs(corrector(on_grid(4))[100:900] - GRID[100:900]).max() < 0.06
    assert corrector.num_effective[5] == 0


def test_saturated_scores_are_corrected_too() -> None:
    """The detector always says 1.0 and is right half of the time."""
    rng = np.random.default_rng(0)
    detections = Detections(
        num_classes=NUM_CLASSES,
        class_indices=np.zeros(1000, dtype=np.int32),
        raw_scores=np.ones(1000),
        image_indices=np.arange(1000),
        outcomes=(rng.random(1000) < 0.5).astype(np.int8),
        weights=np.ones(1000),
    )
    for kind in ("isotonic", "hierarchical", "auto"):
        found = fit_corrector(kind, detections, context=context())(detections)
        assert found[0] == pytest.approx(0.5, abs=0.06), kind
