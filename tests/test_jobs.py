"""The scripts of jobs/: one per stage, and each passes its arguments to the command line."""

import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

JOBS = Path(__file__).resolve().parents[1] / "jobs"
COMMANDS = {
    "prototypes": "prototypes",
    "teacher": "teacher",
    "calibrate": "calibrate",
    "label": "label",
    "distill": "distill",
    "evaluate": "evaluate",
    "report": "report",
    "pipeline": "run",
}


def test_there_is_a_script_for_every_stage_and_no_other() -> None:
    assert {path.stem for path in JOBS.glob("*.py")} == set(COMMANDS)


@pytest.mark.parametrize(("script", "command"), COMMANDS.items())
def test_script_calls_its_command(script: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def main(argv: list[str] | None = None) -> int:
        calls.append(argv)
        return 2

    command_line = ModuleType("raylabel.cli")
    command_line.main = main
    monkeypatch.setitem(sys.modules, "raylabel.cli", command_line)
    monkeypatch.setattr(sys, "argv", [f"jobs/{script}.py", "my.yaml", "--out", "s3://bucket/run", "--seed", "1"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(JOBS / f"{script}.py"), run_name="__main__")
    assert calls == [[command, "my.yaml", "--out", "s3://bucket/run", "--seed", "1"]]
    assert ended.value.code == 2


def test_importing_a_script_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # Ray imports a driver's script again in its workers.
    command_line = ModuleType("raylabel.cli")
    command_line.main = lambda argv: pytest.fail("started")
    monkeypatch.setitem(sys.modules, "raylabel.cli", command_line)
    runpy.run_path(str(JOBS / "pipeline.py"), run_name="__mp_main__")


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(JOBS / "pipeline.py"), str(tmp_path / "absent.yaml")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert "absent.yaml" in line
