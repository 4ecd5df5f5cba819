"""The live view: its figures equal the metrics, its file comes and goes, and its text names what it shows."""

from pathlib import Path

import numpy as np
import pytest

from raylabel.calibration.bins import ReliabilityBins
from raylabel.calibration.metrics.binned import ccece
from raylabel.cluster.live_calibration import live_figures
from raylabel.files.committing import commit_bytes
from raylabel.report.console import format_snapshot
from raylabel.run.folder import RunFolder
from raylabel.run.live_files import commit_snapshot, read_snapshot, remove_snapshot

GROUPS = np.array(["r", "r", "f"])
BINS = ReliabilityBins(
    num=np.array([[0, 0], [4, 2], [10, 30.0]]),
    sum_confidence=np.array([[0, 0], [1.0, 1.5], [3, 24.0]]),
    num_correct=np.array([[0, 0], [0, 2], [3, 15.0]]),
    num_ignored=np.zeros((3, 2)),
)


def test_figures_of_groups_with_and_without_truth() -> None:
    matched, expected = (live_figures(BINS, GROUPS, is_matched=is_matched) for is_matched in (True, False))
    assert list(matched) == ["all", "r", "f"]
    assert matched["all"]["num_classes"] == 2
    assert matched["all"]["num_predictions"] == 46
    assert matched["all"]["mean_confidence"] == pytest.approx(29.5 / 46)
    assert matched["all"]["accuracy"] == pytest.approx(20 / 46)
    assert matched["all"]["ccece"] == pytest.approx((1.5 / 6 + 9 / 40) / 2) == ccece(BINS)
    assert matched["all"]["ccece_debiased"] == ccece(BINS, debiased=True)
    assert expected["r"]["expected_accuracy"] == pytest.approx(2 / 6)
    assert expected["r"]["expected_ccece"] == matched["r"]["ccece"]
    assert not {"accuracy", "ccece", "ccece_debiased"} & set(expected["all"]), "no figure needs the truth"
    nothing = live_figures(ReliabilityBins.zeros(3, 2), GROUPS, is_matched=True)
    assert nothing["f"]["ccece"] is nothing["f"]["mean_confidence"] is None


@pytest.mark.parametrize("is_matched", [True, False])
def test_file_comes_and_goes(tmp_path: Path, is_matched: bool) -> None:
    run = RunFolder(str(tmp_path))
    assert read_snapshot(run, "labels") is None
    groups = live_figures(BINS, GROUPS, is_matched=is_matched)
    commit_snapshot(run, "labels", shards_counted=3, shards_total=9, groups=groups, is_matched=is_matched)
    snapshot = read_snapshot(run, "labels")
    assert snapshot is not None
    assert snapshot["groups"] == groups
    assert 0 <= snapshot["age_seconds"] < 60
    text = format_snapshot("label", snapshot)
    assert "3/9 shards" in text
    assert text.count("\n") == 4
    assert ("so far, not the result" in text) == is_matched
    assert ("no truth: the corrector gives accuracy and CCECE" in text) == (not is_matched)
    assert "no driver is at work" in format_snapshot("label", snapshot | {"age_seconds": 7200})
    commit_bytes(run.path("labels", "live.json"), b"{")
    assert read_snapshot(run, "labels") is None
    remove_snapshot(run, "labels")
    remove_snapshot(run, "labels")
    assert not list((tmp_path / "labels").iterdir())
