"""`raylabel evaluate` of a results file: its table, its JSON, and one line for every mistake."""

import json
from pathlib import Path
from typing import Any

import pytest

from raylabel.cli import main
from raylabel.evaluation import evaluate_results


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Results and annotations of one square that the detector found."""
    square = [[2, 2, 10, 2, 10, 10, 2, 10]]
    truth = {
        "images": [{"id": 1, "height": 20, "width": 30}],
        "categories": [{"id": 3, "name": "a"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "segmentation": square, "bbox": [2, 2, 8, 8]}],
    }
    rows = [{"image_id": 1, "category_id": 3, "score": 0.9, "segmentation": square}]
    for name, content in (("truth.json", truth), ("results.json", rows)):
        (tmp_path / name).write_text(json.dumps(content))
    return str(tmp_path / "results.json"), str(tmp_path / "truth.json")


def command(files: tuple[str, str], *more: str) -> list[str]:
    return ["evaluate", "--predictions", files[0], "--annotations", files[1], *more]


def test_table(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(files)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "mask AP and AR x 100"
    assert lines[1].split()[:2] == ["AP", "100.0"]
    assert lines[6].split()[:2] == ["APl", "–"]
    assert lines[-1] == "not verified"


def test_json_is_one_object_with_all_figures(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(files, "--json")) == 0
    assert json.loads(capsys.readouterr().out) == evaluate_results(files[1], files[0])
    assert main(command(files, "--json", "--verify")) == 0
    found = json.loads(capsys.readouterr().out)
    verification = found.pop("verification")
    assert found == evaluate_results(files[1], files[0])
    assert verification["evaluator"] == "pycocotools"
    assert verification["agrees"] is True


def test_verify_prints_the_largest_difference(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(files, "--verify")) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("verified with pycocotools ")
    assert "largest difference 0.0000 (" in last


def test_lvis_data_show_groups_and_recall(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = json.loads(Path(files[1]).read_text())
    truth["images"][0] |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    truth["categories"][0]["frequency"] = "r"
    Path(files[1]).write_text(json.dumps(truth))
    assert main(command(files, "--verify")) == 0
    text = capsys.readouterr().out
    assert "  APr      100.0  rare classes\n" in text
    assert "  AR@300   100.0  average recall, 300 detections per image\n" in text
    assert "  ARs@300  100.0  objects below 32 x 32 pixels\n" in text
    assert "verified with lvis-api " in text


def test_images_without_detection_are_counted(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    truth = json.loads(Path(files[1]).read_text())
    truth["images"] += [{"id": number, "height": 20, "width": 30} for number in (2, 3)]
    Path(files[1]).write_text(json.dumps(truth))
    warning = "WARNING: 2 of 3 images of the annotations have no detection"
    assert main(command(files)) == 0
    assert capsys.readouterr().out.splitlines()[-2] == warning
    assert main(command(files, "--json")) == 0
    found = capsys.readouterr()
    assert json.loads(found.out)["AP"] == pytest.approx(1)
    assert found.err.splitlines() == [warning]


def test_boxes(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = json.loads(Path(files[0]).read_text())
    Path(files[0]).write_text(json.dumps([{**rows[0], "segmentation": None, "bbox": [2, 2, 8, 8]}]))
    assert main(command(files, "--iou-type", "bbox", "--verify")) == 0
    assert capsys.readouterr().out.startswith("box AP and AR x 100\n  AP ")
    assert main(command(files)) == 2
    assert "has no segmentation: masks are compared here, not boxes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "evaluate: needs a config, or --predictions and --annotations; missing --predictions"),
        (["--predictions", "p.json"], "missing --annotations"),
        (["--annotations", "a.json", "--verify"], "missing --predictions"),
        (["c.yaml", "--predictions", "p.json"], "evaluate: give either a config or --predictions and --annotations"),
        (["c.yaml", "--annotations", "a.json"], "evaluate: give either a config or --predictions and --annotations"),
        (["c.yaml", "--iou-type", "bbox"], "evaluate: give either a config or --predictions and --annotations"),
        (["--predictions", "p.json", "--annotations", "a.json"], "a.json: no such file"),
        (["--predictions", "p.json", "--annotations", "a.json", "--out", "x"], "--out goes with a config"),
        (["--predictions", "p.json", "--annotations", "a.json", "--loud"], "unknown argument --loud"),
        (["--predictions", "p.json", "--annotations", "a.json", "--iou-type", "mask"], "invalid choice: 'mask'"),
    ],
)
def test_mistakes(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert line.startswith("raylabel: ")
    assert message in line
    assert list(tmp_path.iterdir()) == []
