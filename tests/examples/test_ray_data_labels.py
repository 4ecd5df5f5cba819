"""Pseudo-labels of a run in Ray Data."""

import runpy
from pathlib import Path

import pytest

from pool_world import labelled_run

EXAMPLE = str(Path(__file__).resolve().parents[2] / "examples" / "ray_data_labels.py")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_chosen_classes_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = labelled_run(tmp_path, [[[0, 2], []], [[1], [1, 1, 0]]], names=["mug", "lamp", "kite"])
    example = runpy.run_path(EXAMPLE)
    example["main"]([run.uri])
    assert capsys.readouterr().out.splitlines() == ["lamp: 3", "mug: 2", "kite: 1"]
    example["main"]([run.uri, "--classes", "mug", "kite"])
    assert capsys.readouterr().out.splitlines() == ["mug: 2", "kite: 1"]
