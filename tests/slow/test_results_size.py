"""`benchmarks/results_size.py` runs every command on a file that it generates."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "results_size.py"
MAX_PAGE_MB = 10.0


@pytest.mark.slow
def test_every_command_is_measured(tmp_path: Path) -> None:
    size = ["--images", "8", "--detections", "40", "--classes", "1203", "--folder", str(tmp_path)]
    done = subprocess.run([sys.executable, str(SCRIPT), *size], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == ["calibrate", "calibration.html", "correct", "evaluate"]
    assert all("GiB" in line for line in (lines[1], lines[3], lines[4]))
    assert float(lines[2].split()[1]) < MAX_PAGE_MB, "a page of 1,203 classes must stay small"
