"""The benchmark of a labelled set of LVIS's size runs small, and its file has what LVIS's has."""

import json
import runpy
from pathlib import Path

import pytest

LVIS_SIZE = runpy.run_path(str(Path(__file__).resolve().parents[1] / "benchmarks" / "lvis_size.py"))
NUM_IMAGES, NUM_ANNOTATIONS, NUM_CLASSES = 60, 700, 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lvis")
    LVIS_SIZE["write_data"](folder, NUM_IMAGES, NUM_ANNOTATIONS, NUM_CLASSES)
    return folder


def test_the_file_has_lvis_form(folder: Path) -> None:
    content = json.loads((folder / "labelled.json").read_text())
    assert list(content) == ["info", "annotations", "images", "licenses", "categories"]
    assert (len(content["annotations"]), len(content["categories"])) == (NUM_ANNOTATIONS, NUM_CLASSES)
    assert sum(isinstance(one["segmentation"], dict) for one in content["annotations"]) == NUM_ANNOTATIONS // 100
    assert all("neg_category_ids" in one for one in content["images"])


@pytest.mark.parametrize("phase", [phase for phase, _ in LVIS_SIZE["ORDER"]])
def test_each_phase_runs(folder: Path, phase: str, capsys: pytest.CaptureFixture[str]) -> None:
    LVIS_SIZE["run_phase"](phase, folder)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["seconds"] > 0
    assert found["peak_mib"] >= found["imports_mib"] > 0
