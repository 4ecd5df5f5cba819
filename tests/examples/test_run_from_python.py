"""`examples/run_from_python.py`: every stage from Python."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "run_from_python.py"


@pytest.mark.usefixtures("without_ray")
def test_it_runs_every_stage_and_prints_the_result(
    generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = runpy.run_path(str(EXAMPLE))["main"]
    main([str(generated / "config.yaml"), "--out", str(tmp_path / "run")])
    printed = capsys.readouterr().out
    assert "12 labelled images, 32 in the pool" in printed
    assert "student: AP" in printed
    assert "pseudo-labels" in printed


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(EXAMPLE))["main"]
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "none.yaml"), "--out", str(tmp_path / "run")])
    assert ended.value.code == 2
    assert "none.yaml: no such config file" in capsys.readouterr().err
