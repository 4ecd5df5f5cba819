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


def cell(num: int, num_correct: int, score: float, class_index: int, *, weight_of_wrong: float = 1.0) -> Detections:
    """Make detections of one class and score, the correct ones first."""
    is_wrong = np.arange(num) >= num_correct
    return Detections(
        num_classes=3,
        class_indices=np.full(num, class_index, np.int32),
        raw_scores=np.full(num, score),
        image_indices=np.arange(num),
        outcomes=(~is_wrong).astype(np.int8),
        weights=np.where(is_wrong, weight_of_wrong, 1.0),
    )


EACH_IN_ITS_GROUP = FitContext(num_bins=2, frequency_groups=np.array(["r", "c", "f"]))


def value_of(corrector: HierarchicalCorrector, class_index: int, score: float) -> float:
    """Return the corrected score without the thousandth of the raw score."""
    [found] = corrector(Detections.of_scores([class_index], [score], num_classes=3))
    return (float(found) - 0.001 * score) / 0.999


def test_the_only_class_of_a_bin_is_shrunk_to_the_raw_score_by_hand() -> None:
    """No other class has a detection, and the class is alone in its group, so its prior is the raw score."""
    corrector = HierarchicalCorrector.fit(cell(40, 30, 0.3, 0), EACH_IN_ITS_GROUP)
    mass = corrector.masses.single
    assert value_of(corrector, 0, 0.3) == pytest.approx((30 + mass * 0.3) / (40 + mass))
    assert value_of(corrector, 1, 0.3) > 0.31, "the other classes follow it, because it is all that is known"


def test_weights_count_as_their_effective_number_by_hand() -> None:
    """30 right ones of weight 1 and 10 wrong ones of weight 6 have the weight 90. They are worth 90^2 / 390 = 20.8."""
    corrector = HierarchicalCorrector.fit(cell(40, 30, 0.3, 0, weight_of_wrong=6.0), EACH_IN_ITS_GROUP)
    mass, num = corrector.masses.single, 8100 / 390
    assert corrector.num_effective[0] == pytest.approx(num)
    assert value_of(corrector, 0, 0.3) == pytest.approx((num / 3 + mass * 0.3) / (num + mass))


def test_a_prior_is_made_of_the_other_classes_by_hand() -> None:
    """Class 0 is right at 30 of 40, class 1 of the same group at 10 of 50, class 2 of another group at 8 of 10."""
    groups = FitContext(num_bins=2, frequency_groups=np.array(["r", "r", "f"]))
    parts = [cell(40, 30, 0.3, 0), cell(50, 10, 0.3, 1), cell(10, 8, 0.3, 2)]
    corrector = HierarchicalCorrector.fit(Detections.concat(parts), groups)
    masses = corrector.masses
    overall = (10 + 8 + masses.overall * 0.3) / (60 + masses.overall)
    group = (10 + masses.group * overall) / (50 + masses.group)
    assert value_of(corrector, 0, 0.3) == pytest.approx((30 + masses.single * group) / (40 + masses.single))
    overall = (30 + 10 + masses.overall * 0.3) / (90 + masses.overall)
    assert value_of(corrector, 2, 0.3) == pytest.approx((8 + masses.single * overall) / (10 + masses.single))


def test_similar_classes_count_by_their_squared_similarity_by_hand() -> None:
    similarity = np.array([[1.0, 0.5, -0.9], [0.5, 1.0, 0.0], [-0.9, 0.0, 1.0]])
    context_of = FitContext(num_bins=2, frequency_groups=np.array(["r", "c", "f"]), similarity=similarity)
    parts = [cell(40, 30, 0.3, 0), cell(80, 16, 0.3, 1), cell(10, 8, 0.3, 2)]
    corrector = HierarchicalCorrector.fit(Detections.concat(parts), context_of)
    masses = corrector.masses
    overall = (16 + 8 + masses.overall * 0.3) / (90 + masses.overall)
    similar = (0.25 * 16 + masses.similar * overall) / (0.25 * 80 + masses.similar)
    assert value_of(corrector, 0, 0.3) == pytest.approx((30 + masses.single * similar) / (40 + masses.single))


@pytest.mark.parametrize("of_others", [0.0, -0.9])
def test_classes_that_are_not_similar_change_nothing(of_others: float) -> None:
    similarity = np.full((NUM_CLASSES, NUM_CLASSES), of_others)
    np.fill_diagonal(similarity, 1.0)
    detections = simulated(0, 2000, lambda classes, scores: np.where(classes == 3, scores / 2, scores))
    plain = HierarchicalCorrector.fit(detections, context())
    beside = HierarchicalCorrector.fit(
        detections, FitContext(num_bins=10, frequency_groups=GROUPS, similarity=similarity)
    )
    np.testing.assert_allclose(beside.curves.values, plain.curves.values)
