"""`benchmarks/photographs.py`: every seed is a run, finished runs are read, and the tables have their intervals."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from raylabel.config import LabelledPortion
from raylabel.stages.run import run_pipeline

PHOTOGRAPHS = runpy.run_path(str(Path(__file__).resolve().parents[1] / "benchmarks" / "photographs.py"))
SETTINGS = {"calibration.corrector": "ccece", "teacher.steps": "3", "smoothing.warmup_steps": "0"}


@pytest.mark.slow
@pytest.mark.usefixtures("without_ray")
def test_seeds_run_once_and_are_read_again(
    generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raylabel.run_pipeline", run_pipeline)  # because the face keeps the one that it has loaded
    run_seeds, path = PHOTOGRAPHS["run_seeds"], generated / "config.yaml"
    portion = f"{{file: {generated / 'labelled.json'}, fraction: 0.8}}"
    settings = {**SETTINGS, "data.labelled": portion, "data.pool_truth": "null"}
    run_seeds(path, tmp_path, [3, 4], settings)
    first = capsys.readouterr().out
    run_seeds(path, tmp_path, [3, 4], settings)
    again = capsys.readouterr().out
    assert again.count("report: finished before, skipped") == 2
    assert first.partition("seeds 3, 4")[2].splitlines()[1:] == again.partition("seeds 3, 4")[2].splitlines()[1:]
    rows = [line.split()[0] for line in first.partition("seeds 3, 4")[2].splitlines()[1:] if line]
    assert rows[:4] == ["mask", "teacher", "supervised", "supervised+corrector"]
    config = PHOTOGRAPHS["seeded_config"](path, 4, settings)
    assert config.seed == 4
    assert config.data.labelled == LabelledPortion(file=str(generated / "labelled.json"), fraction=0.8, seed=4)


def test_tables_have_intervals_over_seeds_and_images() -> None:
    def metrics(teacher: float, student: float) -> dict[str, object]:
        return {
            "validation": {"supervised": {"AP": teacher}, "student": {"AP": student}},
            "validation_half_widths": {"supervised": {"AP": 0.01}, "student": {}},
            "validation_differences": {
                "from": "supervised",
                "models": {"student": {"AP": {"value": student - teacher, "half_width": 0.02}}},
            },
        }

    lines = PHOTOGRAPHS["format_tables"]([metrics(0.10, 0.12), metrics(0.14, 0.18)]).splitlines()
    half = 12.706 * np.std([10, 14], ddof=1) / np.sqrt(2)  # Student's t of one degree of freedom
    assert [line.split(maxsplit=1) for line in lines[1:]] == [
        ["supervised", f"12.0 ± {half:.1f} ± 1.0"],
        ["student", f"15.0 ± {1.5 * half:.1f} ± –"],
        ["minus", "supervised"],
        ["student", f"+3.0 ± {half / 2:.1f} ± 2.0"],
    ]
    [_, alone, *_] = PHOTOGRAPHS["format_tables"]([metrics(0.10, 0.12)]).splitlines()
    assert alone.split(maxsplit=1) == ["supervised", "10.0 ± – ± 1.0"]
