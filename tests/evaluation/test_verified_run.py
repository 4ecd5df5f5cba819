"""`verify` evaluates an unverified run again, under the same fingerprint."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raylabel.config import Config, DataConfig
from raylabel.evaluation.official import Verification
from raylabel.evaluation.precision_intervals import JackknifedFigures
from raylabel.files.json_files import read_json
from raylabel.run.folder import RunFolder
from raylabel.stages import evaluate


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Values of `verify` in the calls that evaluated the made-up models."""
    calls: list[bool] = []

    def evaluated(config: Config, run: RunFolder, data: Any, *, verify: bool) -> Any:
        calls.append(verify)
        found = Verification(
            evaluator="pycocotools",
            version="2",
            num_figures=12,
            largest_difference=0.0,
            figure="AP",
            num_images=2,
            of_images=2,
        )
        return {"teacher": JackknifedFigures({"AP": 0.5}, ())}, found if verify else None

    data = SimpleNamespace(pool_truth=None, validation=[1, 2], measured_groups=SimpleNamespace(source="labelled"))
    monkeypatch.setattr(evaluate, "RunData", lambda config, run: data)
    monkeypatch.setattr(evaluate, "inputs", lambda config, run, data: {"student": "f"})
    monkeypatch.setattr(evaluate, "calibrate_models", lambda config, run: None)
    monkeypatch.setattr(evaluate, "learnt_from", lambda config, run: ())
    monkeypatch.setattr(evaluate, "_evaluate_models", evaluated)
    return calls


def test_a_run_is_verified_once_under_the_same_fingerprint(
    asked: list[bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = DataConfig(labelled="l.json", images="i", calibration="c.json", validation="v.json", pool="p")
    config, run = Config(data=data), RunFolder(str(tmp_path))
    plain = evaluate.run_stage(config, run)
    assert plain["metrics"]["verification"] is None
    assert evaluate.run_stage(config, run) == plain
    capsys.readouterr()

    verified = evaluate.run_stage(config, run, verify=True)
    assert "evaluate: finished before, but not verified; predicting again to verify" in capsys.readouterr().out
    assert verified["fingerprint"] == plain["fingerprint"]
    assert verified["metrics"]["verification"]["agrees"]
    assert read_json(run.path("evaluation", "metrics.json")) == verified["metrics"]
    assert evaluate.run_stage(config, run, verify=True) == verified
    assert evaluate.run_stage(config, run) == verified, "what is verified stays so"
    assert asked == [False, True]
    assert not (tmp_path / "superseded").exists()
