"""Adding a stage edits two files: CONTRIBUTING.md's worked example, applied word for word to a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import raylabel

CONTRIBUTING = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"


@pytest.fixture
def with_count(tmp_path: Path) -> Path:
    """A folder with a copy of the package, with the stage `count` added."""
    section = CONTRIBUTING.read_text().split("### Add a stage")[1].split("\n### ")[0]
    module, entry = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    package = tmp_path / "raylabel"
    shutil.copytree(Path(raylabel.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "stages" / "count.py").write_text(module)
    table = package / "run" / "folder.py"
    before, after = table.read_text().split(')\n"""The stages of a run in their order."""')
    table.write_text(f'{before}{entry})\n"""The stages of a run in their order."""{after}')
    return tmp_path


@pytest.mark.slow
def test_a_new_stage_has_a_command_a_state_and_a_fingerprint(with_count: Path, generated: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(with_count), os.environ["PYTHONPATH"]])}
    run, config = with_count / "run", str(generated / "config.yaml")

    def raylabel_command(*argv: str) -> str:
        command = [sys.executable, "-m", "raylabel.cli", *argv]
        done = subprocess.run(command, env=environment, cwd=with_count, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "count: done in" in raylabel_command("count", config, "--out", str(run))
    assert "count: finished before, skipped" in raylabel_command("count", config, "--out", str(run))
    assert re.search(r"count +finished", raylabel_command("status", str(run)))
    states = raylabel_command("check", config, "--out", str(run))
    assert re.search(r"count +finished", states)
    assert re.search(r"label +would run", states)
    assert "count the labelled instances of each class" in raylabel_command("--help")
