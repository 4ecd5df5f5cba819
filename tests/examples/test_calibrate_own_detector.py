"""examples/calibrate_own_detector.py runs alone, and on files of one's own."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "calibrate_own_detector.py"


def run(monkeypatch: pytest.MonkeyPatch, *argv: str) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *argv])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_alone_it_calibrates_a_made_up_detector(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch)
    text = capsys.readouterr().out
    assert text.startswith("240 detections")
    before, after = (float(re.search(rf"CCECE {when}: +([.\d]+)", text)[1]) for when in ("before", "after"))
    assert before > 0.2
    assert after < before / 2


def test_with_files_it_writes_corrected_results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_files = runpy.run_path(str(SCRIPT))["make_files"]
    predictions, annotations = map(str, make_files(tmp_path, num_images=20))
    out = tmp_path / "out"
    run(monkeypatch, "--predictions", predictions, "--annotations", annotations, "--out", str(out))
    corrected = json.loads((out / "corrected.json").read_text())
    assert [one["raw_score"] for one in corrected] == [
        one["score"] for one in json.loads(Path(predictions).read_text())
    ]


def test_half_of_the_files_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "--predictions", "results.json")
    assert ended.value.code == 2
    assert "give --predictions and --annotations, or neither" in capsys.readouterr().err
