"""The data that a run's fit may use, and what it stores."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from image_world import FLAT, detect
from prepared import prepared_run
from raylabel.calibration import Corrector, Detections, FitContext, ReliabilityBins, fit_corrector, scored_accuracy
from raylabel.config import CalibrationConfig, Config
from raylabel.files.digests import digest
from raylabel.run import calibration
from raylabel.run.calibration import fit_and_commit, load_accuracy, load_detections
from raylabel.run.classes import load_classes
from raylabel.run.folder import RunFolder
from raylabel.run.labels.histograms import commit_pool_histogram
from raylabel.run.prototypes import load_similarity


@pytest.fixture
def run(config: Config, tmp_path: Path) -> RunFolder:
    return prepared_run(config, tmp_path / "run")


@pytest.fixture
def contexts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, FitContext]]:
    """The kind and the context of each fit of a test."""
    found: list[tuple[str, FitContext]] = []

    def spy(kind: str, detections: Detections, *, context: FitContext) -> Corrector:
        found.append((kind, context))
        return fit_corrector(kind, detections, context=context)

    monkeypatch.setattr(calibration, "fit_corrector", spy)
    return found


def detections() -> Detections:
    """Make detections of the generated set's six classes, with context and areas as stored."""
    made = detect(np.random.default_rng(0), 40, FLAT[:6] * 4)
    weights = np.random.default_rng(1).choice([1.0, 2.5], len(made))
    empty = Detections.empty(6)
    assert empty.context is not None
    context = np.zeros((len(made), empty.context.shape[1]), np.float32)
    scores = made.raw_scores.astype(np.float32).astype(np.float64)
    areas = np.full(len(made), 9, np.int32)
    return replace(made, weights=weights, raw_scores=scores, context=context, mask_areas=areas)


def fitted(run: RunFolder, **settings: Any) -> dict[str, Any]:
    one = detections()
    image_ids = [f"{index:02d}" for index in range(40)]
    return fit_and_commit(run, CalibrationConfig(**settings), one, image_ids, scored_accuracy(one), seed=7)


def test_a_fit_knows_the_runs_classes_and_settings(run: RunFolder, contexts: list[tuple[str, FitContext]]) -> None:
    artifact = fitted(run, corrector="hierarchical", num_bins=9)
    [(kind, context)] = contexts
    classes = load_classes(run)
    assert (kind, context.num_bins, context.seed, context.pool_histogram) == ("hierarchical", 9, 7, None)
    np.testing.assert_array_equal(context.frequency_groups, classes.frequency_groups)
    np.testing.assert_array_equal(context.num_train_images, classes.num_train_images)
    np.testing.assert_array_equal(context.similarity, load_similarity(run))
    assert artifact["settings"] == {"corrector": "hierarchical", "num_bins": 9, "seed": 7}


def test_only_a_corrector_that_uses_the_pool_gets_its_histogram(
    run: RunFolder, contexts: list[tuple[str, FitContext]]
) -> None:
    histogram = ReliabilityBins.from_detections(detections(), 50)
    commit_pool_histogram(run, histogram)
    labelled = {"fingerprint": "a", "pool_digest": "b", "inputs": {"teacher": digest("teacher")}}
    run.commit_artifact("labels", labelled)
    assert fitted(run, corrector="temperature")["pool"] is None
    assert fitted(run, corrector="marginal")["pool"] is not None
    assert contexts[0][1].pool_histogram is None
    assert contexts[1][1].pool_histogram is not None
    np.testing.assert_array_equal(contexts[1][1].pool_histogram.num, histogram.num)
    run.commit_artifact("labels", {**labelled, "inputs": {"teacher": "another"}})
    assert fitted(run, corrector="marginal")["pool"] is None, "these labels come from another teacher"


def test_stored_detections_and_accuracies_come_back(run: RunFolder) -> None:
    fitted(run, corrector="none")
    expected = detections()
    found, image_ids = load_detections(run)
    seen = np.unique(expected.image_indices)
    assert image_ids == [f"{index:02d}" for index in seen]
    np.testing.assert_array_equal(seen[found.image_indices], expected.image_indices)
    for name in ("class_indices", "raw_scores", "outcomes", "weights", "context", "mask_areas"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    for name, values in vars(load_accuracy(run)).items():
        np.testing.assert_allclose(values, getattr(scored_accuracy(expected), name), err_msg=name)
