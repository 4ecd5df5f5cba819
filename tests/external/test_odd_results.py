"""Odd results files are read, and damaged ones refused, in the same way by both commands."""

import json
from pathlib import Path
from typing import Any

import pytest

from raylabel.errors import InputError
from raylabel.external import calibrate_results, correct_results
from raylabel.files.json_files import read_json
from small_results import MODEL_FIELDS, SIZE, Files, contextual, rle


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmentation": None}, "entry 7 has no segmentation: masks are compared here, not boxes"),
        ({"image_id": 99}, r"entry 7: unknown image_id 99\. 1 of \d+ entries name no image of the annotations"),
        ({"image_id": "3"}, "entry 7: unknown image_id '3'"),
        ({"image_id": [1]}, r"entry 7: unknown image_id \[1\]"),
        ({"category_id": 4}, "entry 7: unknown category_id 4"),
        ({"category_id": 3.5}, "entry 7: unknown category_id 3.5"),
        ({"category_id": float("nan")}, "entry 7: unknown category_id nan"),
        ({"score": float("nan")}, r"entry 7: score must be a number in \[0, 1\], got nan"),
        ({"score": 1.5}, r"entry 7: score must be a number in \[0, 1\], got 1.5"),
        ({"score": "high"}, r"entry 7: score must be a number in \[0, 1\], got 'high'"),
        ({"score": True}, r"entry 7: score must be a number in \[0, 1\], got True"),
        ({"segmentation": rle(0, 0, 6, size=20)}, r"entry 7 \(image 3\): RLE size must be \[16, 16\]"),
        ({"segmentation": {"size": [SIZE, SIZE], "counts": "0"}}, r"entry 7 \(image 3\): RLE counts must sum to 256"),
        ({"segmentation": {"size": 16, "counts": "0"}}, r"entry 7 \(image 3\)"),
        ({"segmentation": {"size": [SIZE, SIZE], "counts": "é"}}, r"entry 7 \(image 3\): RLE counts"),
        ({"segmentation": [[0, 0, 5, 5]]}, r"entry 7 \(image 3\): a polygon must have at least 3 points"),
    ],
)
def test_damaged_entries_are_named(files: Files, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    predictions, annotations, results = files
    results[7] |= change
    Path(predictions).write_text(json.dumps(results))
    with pytest.raises(InputError, match=r"results\.json: " + message) as raised:
        calibrate_results(predictions, annotations, str(tmp_path / "out"))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists(), "nothing is written before everything is read"


def test_whole_numbers_may_be_written_as_floats(files: Files, tmp_path: Path) -> None:
    """Tables of floats write ids so. The corrected entries keep their floats."""
    predictions, annotations, results = files
    Path(predictions).write_text(json.dumps([one | {"image_id": float(one["image_id"])} for one in results]))
    calibrate_results(predictions, annotations, str(tmp_path / "floats"), corrector="temperature")
    as_floats = [one | {"category_id": float(one["category_id"])} for one in results]
    Path(predictions).write_text(json.dumps(as_floats))
    artifact = calibrate_results(predictions, annotations, str(tmp_path / "out"), corrector="temperature")
    assert (artifact["num_correct"], artifact["num_incorrect"]) == (12, 12)
    correct_results(str(tmp_path / "out" / "corrector.json"), predictions, str(tmp_path / "corrected.json"))
    assert {type(one["category_id"]) for one in read_json(str(tmp_path / "corrected.json"))} == {float}


@pytest.mark.parametrize("name", ["image_id", "category_id", "score"])
def test_missing_fields_are_named(files: Files, tmp_path: Path, name: str) -> None:
    predictions, annotations, results = files
    del results[3][name]
    Path(predictions).write_text(json.dumps(results))
    with pytest.raises(InputError, match=f"entry 3 has no {name}"):
        calibrate_results(predictions, annotations, str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "hold no detection"),
        ("{}", "must be a list of detections, got dict"),
        ("[", "not JSON"),
        ("[1]", "entry 0"),
    ],
)
def test_damaged_files_are_named(files: Files, tmp_path: Path, text: str, message: str) -> None:
    predictions, annotations, _ = files
    Path(predictions).write_text(text)
    with pytest.raises(InputError, match=message):
        calibrate_results(predictions, annotations, str(tmp_path / "out"))


def test_bad_arguments_and_correctors_are_refused(files: Files, tmp_path: Path) -> None:
    predictions, annotations, _ = files
    for arguments, message in (
        ({"corrector": "platt"}, "corrector must be one of none"),
        ({"num_bins": 1}, "num_bins must be >= 2, got 1"),
        ({"iou_threshold": 1.5}, "iou_threshold must be in"),
    ):
        with pytest.raises(InputError, match=message):
            calibrate_results(predictions, annotations, str(tmp_path), **arguments)
    with pytest.raises(InputError, match=r"absent\.json: no such file"):
        calibrate_results(str(tmp_path / "absent.json"), annotations, str(tmp_path))
    corrector = tmp_path / "corrector.json"
    for content, message in (
        ({"kind": "none"}, "not a corrector of results files"),
        ({"kind": "platt", "category_ids": [3]}, r"corrector\.json: corrector kind must be one of"),
        ({"kind": "ccece", "category_ids": [3]}, r"corrector\.json: corrector 'ccece' lacks"),
        ({"kind": "none", "category_ids": [4]}, "entry 0: unknown category_id 3"),
    ):
        corrector.write_text(json.dumps(content))
        with pytest.raises(InputError, match=message):
            correct_results(str(corrector), predictions, str(tmp_path / "corrected.json"))


def test_fields_that_nobody_needs_may_hold_anything(files: Files, tmp_path: Path) -> None:
    predictions, annotations, results = files
    odd = [one | {"bbox": [float("nan")] * 4, "note": float("inf")} for one in results]
    Path(predictions).write_text(json.dumps(odd))
    calibrate_results(predictions, annotations, tmp_path / "out", corrector="contextual")
    correct_results(tmp_path / "out" / "corrector.json", predictions, tmp_path / "corrected.json")
    [first, *_] = read_json(str(tmp_path / "corrected.json"))
    assert (str(first["bbox"]), first["note"]) == ("[nan, nan, nan, nan]", float("inf"))


def test_scores_that_exceed_one_by_rounding_are_clipped(files: Files, tmp_path: Path) -> None:
    predictions, annotations, results = files
    Path(predictions).write_text(json.dumps([one | {"score": 1 + 5e-7} for one in results]))
    calibrate_results(predictions, annotations, tmp_path / "out", corrector="none")
    correct_results(tmp_path / "out" / "corrector.json", predictions, tmp_path / "corrected.json")
    assert {one["score"] for one in read_json(str(tmp_path / "corrected.json"))} == {1.0}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "entry 7: background must be a number in"),
        (1.5, "entry 7: background must be a number in .* got 1.5"),
        ("absent", "entry 7 has no background, but entry 0 has one"),
    ],
)
def test_damaged_fields_are_named_by_both_commands(files: Files, tmp_path: Path, value: Any, message: str) -> None:
    corrector, results = contextual(files, tmp_path)
    results = [one | MODEL_FIELDS for one in results]
    results[7] |= {"background": value}
    if value == "absent":
        del results[7]["background"]
    Path(files[0]).write_text(json.dumps(results))
    with pytest.raises(InputError, match=message):
        calibrate_results(files[0], files[1], str(tmp_path / "out"))
    with pytest.raises(InputError, match=message):
        correct_results(corrector, files[0], str(tmp_path / "corrected.json"))
