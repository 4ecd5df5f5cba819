"""Promises that every corrector keeps."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.calibration import (
    CORRECTOR_KINDS,
    Corrector,
    Detections,
    FitContext,
    corrector_from_json,
    fit_corrector,
    image_folds,
    out_of_fold_scores,
)
from raylabel.calibration.bins import ReliabilityBins
from raylabel.calibration.metrics import ece, nll
from raylabel.calibration.results_file import read_detections
from raylabel.dataset.annotations import read_annotations
from simulated_detections import GRID, NUM_CLASSES, calibrated, context, on_grid, overconfident, simulated


@st.composite
def any_detections(draw: st.DrawFn) -> Detections:
    """Draw 0 to 40 detections of few classes, with tied and extreme scores, and any outcomes and weights."""
    num = draw(st.integers(0, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    classes = rng.choice(draw(st.lists(st.integers(0, NUM_CLASSES - 1), min_size=1, max_size=4)), num)
    palette = [0.0, 1.0, 0.1, 1e-9, 1 - 1e-9, *rng.random(4)]
    outcomes = draw(st.sampled_from([[0], [1], [2], [0, 1], [0, 1, 2]]))
    return Detections(
        num_classes=NUM_CLASSES,
        class_indices=classes.astype(np.int32),
        raw_scores=rng.choice(palette[: draw(st.integers(1, len(palette)))], num),
        image_indices=rng.integers(0, draw(st.integers(1, 8)), num),
        outcomes=rng.choice(outcomes, num).astype(np.int8),
        weights=rng.choice([1.0, 30.0], num),
    )


@pytest.mark.parametrize("kind", CORRECTOR_KINDS)
@settings(max_examples=25, deadline=None)
@given(detections=any_detections(), with_similarity=st.booleans())
def test_what_every_corrector_promises(kind: str, detections: Detections, with_similarity: bool) -> None:
    corrector = fit_corrector(kind, detections, context=context(with_similarity=with_similarity))
    assert corrector.kind == kind
    text = json.dumps(corrector.to_json(), allow_nan=False)
    read_back = corrector_from_json(json.loads(text))
    for class_index in range(NUM_CLASSES):
        scores = corrector(on_grid(class_index))
        assert np.isfinite(scores).all()
        assert scores.min() >= 0
        assert scores.max() <= 1
        assert np.diff(scores).min() >= -1e-12, "never falls with the raw score"
        np.testing.assert_array_equal(read_back(on_grid(class_index)), scores)
        assert largest_jump(corrector, class_index) < 1e-4, "continuous in the raw score"
    assert corrector(Detections.of_scores([], [], num_classes=NUM_CLASSES)).shape == (0,)


def largest_jump(corrector: Corrector, class_index: int) -> float:
    """Return the rest of the steepest rise on the grid after its interval is halved towards the steeper half 43 times.

    A continuous corrector may be steep, so no bound holds for steps of the grid. Only a jump stays after halving.
    """
    values = corrector(on_grid(class_index))
    place = int(np.argmax(np.diff(values)))
    ends, ends_values = GRID[place : place + 2].copy(), values[place : place + 2].copy()
    for _ in range(43):
        middle = ends.mean()
        value = corrector(Detections.of_scores([class_index], [middle], num_classes=NUM_CLASSES))[0]
        side = int(value - ends_values[0] >= ends_values[1] - value)
        ends[side], ends_values[side] = middle, value
    return float(ends_values[1] - ends_values[0])


def test_a_jump_is_found() -> None:
    class Step:
        kind = "step"

        def __call__(self, detections: Detections) -> np.ndarray:
            return np.where(detections.raw_scores > 0.3141592, 0.6, 0.4) + 0.1 * detections.raw_scores

        def to_json(self) -> dict[str, object]:
            return {}

    assert largest_jump(Step(), 0) == pytest.approx(0.2, abs=1e-6)


@pytest.mark.parametrize(
    "kind", ["none", "ccece", "ccece_bins", "temperature", "isotonic", "isotonic_per_class", "norcal"]
)
@settings(max_examples=25, deadline=None)
@given(detections=any_detections())
def test_an_unseen_class_has_the_correction_of_all_together(kind: str, detections: Detections) -> None:
    """The correction equals a fit to the same detections as if they had one class."""
    corrector = fit_corrector(kind, detections, context=context())
    as_one = replace(detections, class_indices=np.zeros(len(detections), dtype=np.int32))
    expected = fit_corrector(kind, as_one, context=context())(on_grid(0))
    for unseen in set(range(NUM_CLASSES)) - set(detections.scored().class_indices.tolist()):
        np.testing.assert_allclose(corrector(on_grid(unseen)), expected, atol=1e-9)


@pytest.mark.parametrize("kind", CORRECTOR_KINDS)
@pytest.mark.parametrize("outcome", [0, 1, 2])
@pytest.mark.parametrize("score", [0.0, 0.4, 1.0])
def test_one_detection_is_enough(kind: str, outcome: int, score: float) -> None:
    one = replace(Detections.of_scores([2], [score], num_classes=NUM_CLASSES), outcomes=np.array([outcome], np.int8))
    corrector = fit_corrector(kind, one, context=context(with_similarity=True))
    for class_index in range(NUM_CLASSES):
        scores = corrector(on_grid(class_index))
        assert np.isfinite(scores).all()
        assert np.diff(scores).min() >= -1e-12


@pytest.mark.parametrize("kind", CORRECTOR_KINDS)
def test_without_a_detection_scores_stay(kind: str) -> None:
    corrector = fit_corrector(kind, Detections.empty(NUM_CLASSES), context=context(with_similarity=True))
    np.testing.assert_allclose(corrector(on_grid(0)), GRID, atol=2e-6)


@pytest.mark.parametrize("kind", ["temperature", "isotonic", "hierarchical", "auto"])
def test_continuous_and_without_ties(kind: str) -> None:
    corrector = fit_corrector(kind, simulated(0, 3000, overconfident), context=context())
    scores = np.linspace(0.01, 0.99, 20_001)
    found = corrector(Detections.of_scores(np.full(len(scores), 3), scores, num_classes=NUM_CLASSES))
    assert np.diff(found).min() > 0
    assert np.diff(found).max() < 0.01


@pytest.mark.parametrize("kind", ["isotonic", "hierarchical", "auto"])
def test_corrects_overconfidence_on_unseen_images(kind: str) -> None:
    corrector = fit_corrector(kind, simulated(0, 2500, overconfident), context=context())
    unseen = simulated(1, 4000, overconfident)
    before = ece(ReliabilityBins.from_detections(unseen, 15))
    after = ece(ReliabilityBins.from_detections(unseen, 15, corrector(unseen)))
    assert before > 0.1
    assert after < 0.4 * before


def test_ignored_detections_do_not_count() -> None:
    detections = simulated(0, 500, overconfident)
    ignored = Detections.concat([detections, simulated(1, 500, calibrated)])
    ignored.known_outcomes[500:] = 2
    for kind in CORRECTOR_KINDS:
        one, other = (fit_corrector(kind, part, context=context()) for part in (detections, ignored))
        np.testing.assert_allclose(one(on_grid(4)), other(on_grid(4)), err_msg=kind)


def test_bad_json_and_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="must be one of none, ccece"):
        fit_corrector("platt", Detections.empty(2), context=context())
    with pytest.raises(ValueError, match="kind must be one of none, ccece"):
        corrector_from_json({"kind": "platt"})
    with pytest.raises(ValueError, match="'temperature' lacks"):
        corrector_from_json({"kind": "temperature"})
    corrector = fit_corrector("hierarchical", Detections.empty(NUM_CLASSES), context=context())
    with pytest.raises(ValueError, match="fitted on 6 classes, the detections have 7"):
        corrector(Detections.of_scores([6], [0.5], num_classes=7))


def test_figures_on_a_real_detector(shared_data: Callable[[str], Path]) -> None:
    """Compare cross-validated NLL at scores >= 0.05 with docs/method.md: all classes, and classes in <= 5 images."""
    folder = shared_data("external_detector")
    annotated = read_annotations(str(folder / "instances.json"))
    detections = read_detections(str(folder / "results.json"), annotated)
    detections = detections.subset(detections.raw_scores >= 0.05).scored()
    assert len(detections) == 8759
    real_context = FitContext(num_bins=15, frequency_groups=annotated.frequency_groups())
    is_rare = (annotated.class_image_counts() <= 5)[detections.class_indices]
    folds = image_folds(detections.image_indices, seed=0)
    at_most = {"none": (0.350, 0.336), "temperature": (0.340, 0.318), "isotonic": (0.336, 0.320)}
    at_most["hierarchical"] = (0.3375, 0.3185)
    for kind, (limit, rare_limit) in at_most.items():
        scores = out_of_fold_scores(detections, folds, partial(fit_corrector, kind, context=real_context))
        assert nll(scores, detections.is_correct) < limit, kind
        assert nll(scores[is_rare], detections.is_correct[is_rare]) < rare_limit, kind
