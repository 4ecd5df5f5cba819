"""The predictions that the evaluation corrects, and its figures as text."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor

from fakes import FakeSegmenter
from generated_set import Prepare
from raylabel.config import Config, config_dict
from raylabel.predictions.context import CONTEXT_FEATURES
from raylabel.predictions.instances import Instances
from raylabel.report.console import format_metrics
from raylabel.run.folder import RunFolder
from raylabel.run.labels.shards import context_from_structs
from raylabel.stages.evaluate import EvaluateShard, doubtful_figures
from without_ray import Silent


def test_correctors_see_the_context_that_they_were_fitted_with(
    config: Config, prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Detections below `label.score_threshold` are predicted for AP. They change nobody's context."""
    found_once = FakeSegmenter._found

    def found_twice(self: FakeSegmenter, image: Tensor, score_threshold: float) -> Instances:
        """Every shape again, with a tenth of the score."""
        once = found_once(self, image, 0.0)
        both = once[np.tile(np.arange(len(once)), 2)]
        both = replace(both, raw_scores=both.raw_scores * np.repeat(np.float32([1, 0.1]), len(once)))
        return both[both.raw_scores >= score_threshold]

    monkeypatch.setattr(FakeSegmenter, "_found", found_twice)
    run = prepare(config, tmp_path / "run")

    def contexts(score_threshold: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        of_labels = replace(config, label=replace(config.label, score_threshold=score_threshold))
        worker = EvaluateShard(
            config=config_dict(of_labels),
            run=run,
            model_uris={"student": run.path("teacher")},
            correctors={},
            of_set={},
            counter=Silent(),
        )
        [(_, predictions)] = worker.predict({"rows": [*range(5)], "shard_id": 0})
        found = [one for row in predictions.to_pylist() for one in row["instances"]]
        return context_from_structs(found), np.array([one["raw_score"] for one in found], np.float32)

    (context, scores), (everything, same_scores) = contexts(0.1), contexts(0.0)
    np.testing.assert_array_equal(scores, same_scores)
    assert scores.min() < 0.1 <= scores.max()
    overlap = CONTEXT_FEATURES.index("overlap_same")
    is_high = scores >= np.float32(0.1)
    assert (context[is_high, overlap] == 0).all()
    assert (everything[is_high, overlap] > 0).all()


def test_figures_of_a_version_that_knew_no_orientation_are_doubtful(tmp_path: Path) -> None:
    run, old = RunFolder(str(tmp_path)), {"num_images": 3, "num_instances": 0}
    assert f"move {run.path('evaluation')} away" in doubtful_figures(run, {"pool": old})
    assert doubtful_figures(run, {"pool": old | {"num_other_orientation": 0}}) == ""
    assert doubtful_figures(run, {"pool": None}) == ""


def test_metrics_as_text_show_every_arm_and_absent_figures() -> None:
    figures = {"AP": 0.251, "AP50": 0.4, "APr": None, "APc": 0.2, "APf": 0.3}
    text = format_metrics({"validation": {"teacher": figures, "student": {**figures, "AP": 0.3}}, "pool": None})
    assert "teacher                     25.1    40.0       –    20.0    30.0" in text
    assert "student                     30.0" in text


@pytest.mark.parametrize(("source", "is_said"), [("declared", True), ("labelled", False)])
def test_metrics_say_whose_frequency_groups_they_have(source: str, is_said: bool) -> None:
    text = format_metrics({"validation": {}, "frequency": source, "pool": None})
    assert ("as the validation file declares them" in text) == is_said


def test_differences_are_shown_with_intervals() -> None:
    figures = {"AP": 0.25, "AP50": 0.4, "APr": None, "APc": 0.2, "APf": 0.3}
    metrics = {
        "validation": {"supervised": figures, "student": figures},
        "validation_differences": {
            "from": "supervised",
            "models": {"student": {"AP": {"value": 0.031, "half_width": 0.012}}},
        },
        "pool": None,
    }
    lines = format_metrics(metrics).splitlines()
    assert lines[-2].startswith("minus supervised, 95% interval")
    assert lines[-1].split() == ["student", "+3.1", "±", "1.2", "–"]
