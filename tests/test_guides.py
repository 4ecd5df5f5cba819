"""The commands and Python blocks of README and guides run as they are written, on a small set and without Ray.

A command is a line of an indented block that begins with a program's name. A command that cannot run here is listed in
NOT_RUN with the reason. Fenced YAML blocks must be settings that a config may have.
"""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from generated_set import CONFIG
from raylabel.cli import main
from raylabel.config.load import parse_config
from raylabel.dataset.synthetic.generate import generate
from without_ray import put_stages_here

ROOT = Path(__file__).resolve().parents[1]
GUIDES = (
    "calibration",
    "models",
    "training",
    "distillation",
    "clusters",
    "training-faults",
    "own-data",
    "method",
    "guides/deploy",
)
PAGES = ("README.md", *(f"docs/{name}.md" for name in GUIDES))

PROGRAMS = "raylabel|python3?|ray|make|pip|source|kubectl|helm|kind|export|docker|[.]venv/bin/\\w+"

NOT_RUN = {
    "make ": "sets up an environment and runs whole targets; CI runs them",
    "source ": "changes the shell",
    "python3 -m venv": "makes an environment",
    "[.]venv/bin/pip": "installs packages",
    "pip install": "installs packages",
    "export ": "changes the shell",
    "ray job submit": "needs a head; tests/slow/test_job_submit.py submits such jobs",
    "ray start": "starts a head; tests/slow/test_job_submit.py does",
    "kubectl ": "needs Kubernetes; tests/k8s checks the manifests",
    "helm ": "needs Kubernetes",
    "kind ": "needs Docker",
    "docker ": "needs Docker; tests/k8s reads the Dockerfile",
    "raylabel .*s3://my-bucket": "needs a bucket; tests/slow/test_object_store_run.py has one",
    "raylabel init ": "would replace the small my.yaml; tests/test_first_config.py runs it",
    "python examples/serve.py": "serves until it is stopped; tests/examples/test_serve.py asks it",
    "python benchmarks/": "takes minutes; docs/results.md has what it printed",
}
"""Beginning of a command, as a regular expression -> why no test runs it."""

QUICKER = {'{"teacher.steps": 2000}': '{"teacher.steps": 4}'}
"""Text of a Python block -> what stands in for it here, because it would take minutes."""

GIVEN = {
    "docs/calibration.md": """
from raylabel.masks.rle import encode_masks
import numpy as np
squares = np.zeros((2, 32, 32), bool)
squares[0, 0:6, 0:6] = squares[1, 8:14, 8:14] = True
class_indices, scores, masks = np.array([0, 1]), np.array([0.9, 0.5]), encode_masks(squares)
"""
}
"""Page -> code that makes the names that its Python blocks take as given."""


def commands(page: str) -> list[str]:
    """Return the commands of a page's indented blocks, without comments. Continued lines are joined."""
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    indented = "\n".join(line.strip() for line in text.replace("\\\n", " ").splitlines() if line.startswith("    "))
    found = re.findall(rf"^(?:{PROGRAMS}) .+$", indented, flags=re.MULTILINE)
    return [re.sub(r"(\s+#.*)$", "", one) for one in found]


def fenced(page: str, language: str) -> list[str]:
    """Return the fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)


def why_not(command: str) -> str | None:
    """Return why no test runs a command. None if one does."""
    return next((why for beginning, why in NOT_RUN.items() if re.match(beginning, command)), None)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: images and annotations, my.yaml, a finished run RUN, a detector's results, and a package."""
    folder = tmp_path_factory.mktemp("project")
    generate(folder, num_images=60, num_classes=6, image_size=64)
    shutil.copy(min((folder / "images").iterdir()), folder / "images" / "1.jpg")
    (folder / "my.yaml").write_text(f"{CONFIG}calibration: {{corrector: contextual, iou_threshold: 0.05}}\n")
    make_files = runpy.run_path(str(ROOT / "examples" / "calibrate_own_detector.py"))["make_files"]
    results, annotations = make_files(folder, num_images=30)
    shutil.move(results, folder / "other_results.json")
    for name in ("instances.json", "other_instances.json"):
        shutil.copy(annotations, folder / name)
    (folder / "my_package").mkdir()
    (folder / "my_package" / "my_module.py").write_text("from fakes import FakeSegmenter as MySegmenter\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", sys.path[:])
        put_stages_here(patch)
        assert main(["run", "my.yaml", "--out", "RUN"]) == 0
    for name in ("demo", "default", "first"):
        shutil.copytree(folder / "RUN", folder / "runs" / name)
    return folder


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder as the working directory, with the detector's results. Pages share the folder and its runs."""
    shutil.copy(project / "other_results.json", project / "results.json")
    # The fake's predictions are random, so the fit gives the context no say. Here the corrector must look at it.
    corrector = project / "RUN" / "student-calibration" / "calibration" / "corrector.json"
    content = json.loads(corrector.read_text())
    content.pop("digest", None)  # because a changed corrector is refused
    assert "runner_up" in content["features"]
    corrector.write_text(json.dumps(content | {"share": 1.0}))
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "path", [str(project), *sys.path])
    put_stages_here(monkeypatch)
    return project


@pytest.mark.parametrize("page", PAGES)
def test_the_page_runs(page: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(GIVEN.get(page, ""), names)
    for block in fenced(page, "python"):
        for long, short in QUICKER.items():
            block = block.replace(long, short)
        exec(compile(block, page, "exec"), names)
    for command in commands(page):
        if why_not(command) is None:
            program, *arguments = shlex.split(command)
            if program == "raylabel":
                assert main(arguments) == 0, f"{command}: {capsys.readouterr().err}"
            else:
                environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
                subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=environment)


@pytest.mark.parametrize("page", PAGES)
def test_yaml_blocks_are_settings(page: str) -> None:
    names = ("labelled", "images", "calibration", "validation", "pool")
    for block in fenced(page, "yaml"):
        settings = {"data": {name: name for name in names}, **yaml.safe_load(block)}
        model = {key: settings.get("teacher", {}).get(key) for key in ("model", "model_options")}
        student = {key: value for key, value in model.items() if value}
        parse_config({**settings, "student": student | settings.get("student", {})}, source=page)


def test_every_reason_is_of_a_command() -> None:
    found = [command for page in PAGES for command in commands(page)]
    assert len(found) > 30
    for beginning in NOT_RUN:
        assert any(re.match(beginning, command) for command in found), f"no command begins with {beginning!r}"
