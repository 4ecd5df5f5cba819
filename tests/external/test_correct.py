"""`correct` on a results file: scores, and the fields that a corrector looks at."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raylabel.cli import main
from raylabel.errors import InputError
from raylabel.external import calibrate_results, correct_results
from raylabel.files.json_files import read_json
from raylabel.files.tables import read_table
from small_results import MODEL_FIELDS, SIZE, Files, contextual, edited, rle, write_files


def test_correct_keeps_everything_but_the_score(
    calibration: tuple[Path, dict[str, Any]], files: Files, tmp_path: Path
) -> None:
    predictions, _, results = files
    corrector, out = str(calibration[0] / "corrector.json"), str(tmp_path / "corrected.json")
    summary = correct_results(corrector, predictions, out)
    corrected = read_json(out)
    assert summary["num_detections"] == 24
    assert summary["mean_calibrated_score"] == pytest.approx(np.mean([one["score"] for one in corrected]))
    for before, after in zip(results, corrected, strict=True):
        assert after["raw_score"] == before["score"]
        assert after["score"] > 0.9 if before["score"] == 0.9 else after["score"] < 0.4
        assert list(after) == [*before, "raw_score"]
        assert all(after[name] == value for name, value in before.items() if name != "score")
    with pytest.raises(InputError, match=r"entry 0 already has a raw_score"):
        correct_results(corrector, out, out)


def test_unseen_class_gets_its_parent(calibration: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    dogs = tmp_path / "dogs.json"
    dogs.write_text(json.dumps([{"image_id": 1, "category_id": 5, "score": 0.4}]))
    correct_results(str(calibration[0] / "corrector.json"), str(dogs), str(tmp_path / "dogs_corrected.json"))
    assert read_json(str(tmp_path / "dogs_corrected.json"))[0]["score"] < 0.4


def test_polygons_are_calibrated_and_corrected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A corrector that looks at masks needs the size of a polygon's image. calibrate says so."""
    predictions, annotations, results = write_files(tmp_path, num_images=60)
    corrector, out = str(tmp_path / "cal" / "corrector.json"), str(tmp_path / "out.json")
    calibrate = ["calibrate", "--predictions", predictions, "--annotations", annotations, "--out", f"{tmp_path}/cal"]
    correct = ["correct", "--corrector", corrector, "--predictions", predictions, "--out", out]
    note = "correct: polygons need the size of their image, so give raylabel correct --annotations too\n"
    assert main([*calibrate, "--corrector", "contextual"]) == 0
    assert note not in capsys.readouterr().out
    assert main(correct) == 0
    of_runs = [one["score"] for one in read_json(out)]
    places = {0.9: 0, 0.4: 9}
    for one in results:
        low, high = places[one["score"]], places[one["score"]] + 6
        one["segmentation"] = [[low, low, high, low, high, high, low, high]]
    Path(predictions).write_text(json.dumps(results))
    assert main([*calibrate, "--corrector", "contextual"]) == 0
    assert note in capsys.readouterr().out
    assert main([*correct, "--annotations", annotations]) == 0
    assert [one["score"] for one in read_json(out)] == of_runs
    assert main(correct) == 2
    assert "Give the images' annotation file with --annotations" in capsys.readouterr().err


def test_an_empty_file_is_corrected_to_an_empty_file(calibration: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text("[]")
    summary = correct_results(calibration[0] / "corrector.json", tmp_path / "none.json", tmp_path / "out.json")
    assert (summary["num_detections"], summary["mean_raw_score"]) == (0, None)
    assert read_json(str(tmp_path / "out.json")) == []


def test_context_is_not_asked_for_where_the_model_has_no_say(files: Files, tmp_path: Path) -> None:
    corrector, results = contextual(files, tmp_path)
    Path(corrector).write_text(json.dumps(edited(corrector, share=0.0)))
    Path(files[0]).write_text(json.dumps([one | {"segmentation": None} for one in results]))
    assert correct_results(corrector, files[0], str(tmp_path / "corrected.json"))["num_detections"] == 24


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmentation": None}, "entry 5 has no segmentation"),
        ({"segmentation": rle(0, 0, 6, size=20)}, r"entry 5 \(image 2\): RLE size must be \[16, 16\]"),
        ({"image_id": None}, "entry 5 has no image_id"),
        ({"segmentation": {"size": [SIZE, SIZE], "counts": "zz"}}, "entry 5"),
    ],
)
def test_context_needs_whole_entries(files: Files, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    corrector, results = contextual(files, tmp_path)
    results[5] |= change
    Path(files[0]).write_text(json.dumps(results))
    with pytest.raises(InputError, match=message) as raised:
        correct_results(corrector, files[0], str(tmp_path / "corrected.json"))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "corrected.json").exists()


def test_a_corrector_of_a_models_own_features_corrects_files_that_have_them(files: Files, tmp_path: Path) -> None:
    predictions, annotations, results = files
    with_fields = [one | MODEL_FIELDS for one in results]
    Path(predictions).write_text(json.dumps(with_fields))
    calibrate_results(predictions, annotations, str(tmp_path), corrector="contextual")
    corrector = tmp_path / "corrector.json"
    content = edited(str(corrector))
    assert content["features"][-3:] == list(MODEL_FIELDS)
    detections = read_table(str(tmp_path / "detections.parquet"))["context"].to_pylist()
    assert {name: detections[3][name] for name in MODEL_FIELDS} == MODEL_FIELDS
    corrector.write_text(json.dumps(content | {"share": 1.0}))
    correct_results(str(corrector), predictions, str(tmp_path / "corrected.json"))
    corrected = read_json(str(tmp_path / "corrected.json"))
    assert [one | {"score": one["raw_score"]} for one in corrected] == [
        one | {"raw_score": one["score"]} for one in with_fields
    ], "the fields stay in the file"


def test_files_without_the_fields_of_the_fit_are_refused(files: Files, tmp_path: Path) -> None:
    corrector, _ = contextual(files, tmp_path)
    content = edited(corrector)
    content |= {"features": [*content["features"][:-2], "mask_quality", "runner_up"]}
    Path(corrector).write_text(json.dumps(content))
    said = r"looks at mask_quality, runner_up, which entry 0 lacks\. Write them with .*results_entries"
    with pytest.raises(InputError, match=said) as raised:
        correct_results(corrector, files[0], str(tmp_path / "corrected.json"))
    assert "\n" not in str(raised.value)
    Path(corrector).write_text(json.dumps(content | {"features": content["features"][:-2], "trees": "no trees"}))
    with pytest.raises(InputError, match="trees are not a LightGBM model"):
        correct_results(corrector, files[0], str(tmp_path / "corrected.json"))
