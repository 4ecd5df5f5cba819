"""Real results files are calibrated; damaged ones are refused with one clear line."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from json_values import damaged
from one_line import value_or_line
from raylabel.calibration import FitContext, ReliabilityBins, fit_corrector, read_detections, results_entries
from raylabel.calibration.results_file import unmatched_detections
from raylabel.cli import main
from raylabel.config import CORRECTOR_KINDS
from raylabel.dataset.annotations import read_annotations
from raylabel.errors import InputError
from raylabel.external import calibrate_results, correct_results
from raylabel.files.storage import read_json, read_table
from raylabel.masks.rle import encode_masks, mask_boxes
from raylabel.predictions.instances import Instances, instances_context
from raylabel.report.console import format_summary
from raylabel.schema import CLASSES, DETECTIONS

SIZE = 16
Files = tuple[str, str, list[dict[str, Any]]]


def rle(row: int, column: int, side: int, size: int = SIZE) -> dict[str, Any]:
    mask = np.zeros((1, size, size), dtype=bool)
    mask[0, row : row + side, column : column + side] = True
    encoded = encode_masks(mask)[0]
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def write_files(folder: Path, num_images: int = 12) -> Files:
    """Write images with one object of class 3 each. The detector finds it (0.9), with a false alarm (0.4)."""
    truth = {
        "images": [
            {"id": image, "file_name": f"{image}.jpg", "height": SIZE, "width": SIZE} for image in range(num_images)
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
        "annotations": [
            {"id": image + 1, "image_id": image, "category_id": 3, "iscrowd": 0, "area": 36}
            | {"bbox": [0, 0, 6, 6], "segmentation": rle(0, 0, 6)}
            for image in range(num_images)
        ],
    }
    results = [
        {
            "image_id": image,
            "category_id": 3,
            "score": score,
            "bbox": [0, 0, 6, 6],
            "segmentation": rle(place, place, 6),
        }
        | {"note": f"{image}/{place}"}
        for image in range(num_images)
        for place, score in ((0, 0.9), (9, 0.4))
    ]
    annotations, predictions = folder / "truth.json", folder / "results.json"
    annotations.write_text(json.dumps(truth))
    predictions.write_text(json.dumps(results))
    return str(predictions), str(annotations), results


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return write_files(tmp_path)


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Folder and artifact of a calibration of `write_files`."""
    folder = tmp_path_factory.mktemp("calibration")
    predictions, annotations, _ = write_files(folder)
    artifact = calibrate_results(predictions, annotations, str(folder / "out"), corrector="hierarchical", num_bins=10)
    return folder / "out", artifact


def test_writes_everything_that_it_says(calibration: tuple[Path, dict[str, Any]]) -> None:
    out, artifact = calibration
    assert sorted(path.name for path in out.iterdir()) == [
        "artifact.json",
        "bins.parquet",
        "calibration.html",
        "classes.csv",
        "classes.parquet",
        "corrector.json",
        "detections.parquet",
        "reliability.png",
    ]
    assert (out / "reliability.png").read_bytes().startswith(b"\x89PNG")
    assert read_json(str(out / "artifact.json")) == artifact
    assert (artifact["num_correct"], artifact["num_incorrect"], artifact["num_ignored"]) == (12, 12, 0)
    # Two bins: |0.9 - 1| and |0.4 - 0|, each with half of the detections.
    assert artifact["raw"]["ccece"]["all"] == pytest.approx(0.25)
    assert artifact["calibrated_cross_validated"]["nll"] < artifact["raw"]["nll"]
    detections = read_table(str(out / "detections.parquet"))
    assert detections.schema.equals(DETECTIONS)
    assert detections["outcome"].to_pylist() == [1, 0] * 12, "in the file's order"
    classes = read_table(str(out / "classes.parquet"))
    assert classes.schema.equals(CLASSES)
    assert classes["category_id"].to_pylist() == [3, 5]
    assert classes["ccece"].to_pylist()[1] is None, "dogs are neither annotated nor detected"
    bins = ReliabilityBins.from_table(read_table(str(out / "bins.parquet")))
    assert bins.num.sum() == 24
    assert read_json(str(out / "corrector.json"))["category_ids"] == [3, 5]


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


def test_the_page_writes_names_that_the_plots_font_lacks(files: Files, tmp_path: Path) -> None:
    predictions, annotations, _ = files
    truth = read_json(annotations)
    truth["categories"][0]["name"] = "犬 <b>"
    Path(annotations).write_text(json.dumps(truth))
    calibrate_results(predictions, annotations, tmp_path / "out", corrector="temperature")
    page = (tmp_path / "out" / "calibration.html").read_text(encoding="utf-8")
    assert len(re.findall(r'<span style="left: [\d.]+%; bottom: [\d.]+%">犬 &lt;b&gt;</span>', page)) == 1


def test_images_without_detection_are_counted(files: Files, tmp_path: Path) -> None:
    predictions, annotations, results = files
    Path(predictions).write_text(json.dumps([one for one in results if one["image_id"] not in (4, 5, 6)]))
    artifact = calibrate_results(predictions, annotations, tmp_path / "out", corrector="temperature")
    assert artifact["num_images_without_detection"] == 3
    assert "WARNING: 3 of 12 images of the annotations have no detection" in format_summary(artifact)
    Path(predictions).write_text(json.dumps(results))
    assert "WARNING" not in format_summary(
        calibrate_results(predictions, annotations, tmp_path / "out", corrector="temperature")
    )


def test_unseen_class_gets_its_parent(calibration: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    dogs = tmp_path / "dogs.json"
    dogs.write_text(json.dumps([{"image_id": 1, "category_id": 5, "score": 0.4}]))
    correct_results(str(calibration[0] / "corrector.json"), str(dogs), str(tmp_path / "dogs_corrected.json"))
    assert read_json(str(tmp_path / "dogs_corrected.json"))[0]["score"] < 0.4


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


def test_an_empty_file_is_corrected_to_an_empty_file(calibration: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text("[]")
    summary = correct_results(calibration[0] / "corrector.json", tmp_path / "none.json", tmp_path / "out.json")
    assert (summary["num_detections"], summary["mean_raw_score"]) == (0, None)
    assert read_json(str(tmp_path / "out.json")) == []


def test_norcal_takes_the_counts_of_the_training_set(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """12 evaluation images have a cat; 3 training images have a cat, and 1 has a dog."""
    predictions, annotations, _ = files
    truth, train = read_json(annotations), str(tmp_path / "train.json")
    objects = [one | {"category_id": 5} if one["image_id"] == 3 else one for one in truth["annotations"][:4]]
    Path(train).write_text(json.dumps(truth | {"annotations": objects}))
    command = ["calibrate", "--predictions", predictions, "--annotations", annotations, "--corrector", "norcal"]
    command += ["--out", f"{tmp_path}/out"]
    assert main(command) == 0
    assert f"norcal: image counts of the classes are those of {annotations}\n" in capsys.readouterr().out
    assert read_json(str(tmp_path / "out" / "corrector.json"))["log_divisors"] == [0, 0]
    assert main([*command, "--train-annotations", train]) == 0
    assert f"norcal: image counts of the classes are those of {train}\n" in capsys.readouterr().out
    of_train = read_json(str(tmp_path / "out" / "corrector.json"))["log_divisors"]
    assert of_train == pytest.approx([0.6 * np.log(3) / 2, -0.6 * np.log(3) / 2])
    classes = read_table(str(tmp_path / "out" / "classes.parquet"))
    assert classes["num_train_images"].to_pylist() == [3, 1]
    Path(train).write_text(json.dumps(truth | {"categories": [{"id": 3, "name": "cat"}]}))
    assert main([*command, "--train-annotations", train]) == 2
    assert "categories must be the same in every annotation file" in capsys.readouterr().err
    assert main(["calibrate", "config.yaml", "--train-annotations", train]) == 2
    assert "give either a config or --predictions" in capsys.readouterr().err


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """A folder with the small files, and the content of a corrector.json per kind that was fitted to them."""
    folder = tmp_path_factory.mktemp("small")
    predictions, annotations, _ = write_files(folder)
    truth = read_annotations(annotations)
    detections, context = read_detections(predictions, truth), FitContext.of(truth)
    ids = {"category_ids": truth.category_ids.tolist()}
    return folder, {kind: fit_corrector(kind, detections, context=context).to_json() | ids for kind in CORRECTOR_KINDS}


@pytest.mark.parametrize("kind", CORRECTOR_KINDS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_damaged_corrector_gives_scores_or_one_line(
    small: tuple[Path, dict[str, dict[str, Any]]], kind: str, data: st.DataObject
) -> None:
    folder, fitted = small
    content = fitted[kind] | ({"share": 1.0} if kind == "contextual" else {})
    (folder / "corrector.json").write_text(json.dumps(data.draw(damaged(content))))
    files = (folder / "corrector.json", folder / "results.json", folder / "corrected.json")
    _, line = value_or_line(lambda: correct_results(*files))
    if not line:
        assert all(0 <= one["score"] <= 1 for one in read_json(str(files[2])))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_ids": [3, 3]}, "category_ids must differ"),
        ({"category_ids": [3, 2**63]}, "category_ids number 1: id must be an integer of at most 64 bits"),
        ({"category_ids": [3]}, "does not fit its classes: the corrector was fitted on 2 classes"),
        ({"bias": [0.1, float("nan")]}, r"gives scores that are not in \[0, 1\]"),
        ({"bias": 0.1}, "corrector 'ccece' does not fit its classes"),
        ({"bias": {}}, "corrector 'ccece' lacks or has a malformed parameter"),
    ],
)
def test_damaged_correctors_are_named(
    small: tuple[Path, dict[str, dict[str, Any]]], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    (tmp_path / "c.json").write_text(json.dumps(small[1]["ccece"] | change))
    with pytest.raises(InputError, match=rf"c\.json: .*{message}"):
        correct_results(tmp_path / "c.json", small[0] / "results.json", tmp_path / "out.json")


def test_real_detector(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shared_data("external_detector")
    predictions, annotations = str(folder / "results.json"), str(folder / "instances.json")
    artifact = calibrate_results(predictions, annotations, str(tmp_path / "out"))
    assert (artifact["num_correct"], artifact["num_incorrect"], artifact["num_ignored"]) == (1782, 10294, 488)
    assert artifact["corrector_chosen"] == "contextual"
    raw, calibrated = artifact["raw"], artifact["calibrated_cross_validated"]
    assert calibrated["nll"] < raw["nll"] - 0.055
    assert calibrated["ece"] < 0.4 * raw["ece"]
    assert all(calibrated["ccece"][group] < raw["ccece"][group] for group in ("all", "r", "c", "f"))
    correct_results(str(tmp_path / "out" / "corrector.json"), predictions, str(tmp_path / "corrected.json"))
    corrected = [one["score"] for one in read_json(str(tmp_path / "corrected.json"))]
    stored = read_table(str(tmp_path / "out" / "detections.parquet"))["calibrated_score"].to_numpy()
    np.testing.assert_allclose(corrected, stored, atol=1e-6)


def edited(corrector: str | Path, **changes: Any) -> dict[str, Any]:
    """Return the content of a corrector.json with changes, as one that states no digest."""
    content: dict[str, Any] = read_json(str(corrector)) | changes
    return {name: value for name, value in content.items() if name != "digest"}


def test_a_corrector_that_was_changed_is_refused(
    calibration: tuple[Path, dict[str, Any]], files: Files, tmp_path: Path
) -> None:
    """LightGBM ends the process with a segmentation fault on trees with a changed digit."""
    content = read_json(str(calibration[0] / "corrector.json"))
    content["values"][0][0] += 1e-9
    (tmp_path / "corrector.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"corrector\.json: was changed after calibrate wrote it"):
        correct_results(tmp_path / "corrector.json", files[0], tmp_path / "out.json")
    (tmp_path / "corrector.json").write_text(json.dumps(edited(tmp_path / "corrector.json")))
    assert correct_results(tmp_path / "corrector.json", files[0], tmp_path / "out.json")["num_detections"] == 24


def contextual(files: Files, folder: Path) -> tuple[str, list[dict[str, Any]]]:
    """Fit a contextual corrector that uses its model alone; return its path and the entries of the small files."""
    predictions, annotations, results = files
    calibrate_results(predictions, annotations, str(folder / "out"), corrector="contextual")
    path = folder / "out" / "corrector.json"
    path.write_text(json.dumps(edited(path, share=1.0)))
    return str(path), results


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


MODEL_FIELDS = {"mask_quality": 0.75, "background": 0.125, "runner_up": 0.0625}


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


def test_every_argument_of_a_calibration_counts(files: Files, tmp_path: Path) -> None:
    """Right detections overlap their object wholly, and wrong ones not at all; the tilted ones have an IoU of 0.5."""
    predictions, annotations, results = files
    tilted = [
        one
        | {"score": one["score"] - one["image_id"] / 100}
        | ({"segmentation": rle(0, 2, 6)} if one["score"] == 0.9 and one["image_id"] < 6 else {})
        for one in results
    ]
    Path(predictions).write_text(json.dumps(tilted))
    found = {}
    for name, changes in {
        "plain": {},
        "corrector": {"corrector": "ccece"},
        "num_bins": {"num_bins": 4},
        "iou_threshold": {"iou_threshold": 0.51},
        "seed": {"seed": 5},
    }.items():
        out = str(tmp_path / name)
        summary = calibrate_results(predictions, annotations, out, **{"corrector": "isotonic", **changes})
        bins = ReliabilityBins.from_table(read_table(f"{out}/bins.parquet"))
        found[name] = {
            "corrector": read_json(f"{out}/corrector.json")["kind"],
            "num_bins": bins.num_bins,
            "iou_threshold": summary["num_correct"],
            "seed": summary["calibrated_cross_validated"]["nll"],
        }
    assert found["plain"] | {"seed": 0} == {"corrector": "isotonic", "num_bins": 15, "iou_threshold": 12, "seed": 0}
    assert found["corrector"]["corrector"] == "ccece"
    assert found["num_bins"] == found["plain"] | {"num_bins": 4}
    assert found["iou_threshold"]["iou_threshold"] == 6
    assert found["seed"]["seed"] != found["plain"]["seed"]
    assert found["seed"] | {"seed": 0} == found["plain"] | {"seed": 0}


def test_a_federated_results_file_is_weighed(files: Files, tmp_path: Path) -> None:
    """In one image it is known that there is no dog. Its wrong dog stands for those of the other images."""
    predictions, annotations, results = files
    truth = json.loads(Path(annotations).read_text())
    for image in truth["images"]:
        image["neg_category_ids"] = [5] if image["id"] == 0 else []
    Path(annotations).write_text(json.dumps(truth))
    dogs = [one | {"category_id": 5} if one["score"] == 0.4 else one for one in results]
    Path(predictions).write_text(json.dumps(dogs))
    summary = calibrate_results(predictions, annotations, str(tmp_path / "out"), corrector="none")
    table = read_table(str(tmp_path / "out" / "detections.parquet")).to_pylist()
    weights = {(row["class_index"], row["outcome"]): row["weight"] for row in table}
    assert weights == {(0, 1): 1, (1, 0): pytest.approx(12), (1, 2): 1}
    assert summary["num_ignored"] == 11
    # 12 right cats of 0.9, and a wrong dog of 0.4 that counts as 12.
    assert summary["raw"]["brier"] == pytest.approx((12 * 0.01 + 12 * 0.16) / 24)
    rows = read_table(str(tmp_path / "out" / "classes.parquet")).to_pylist()
    assert [row["num_effective"] for row in rows][1] == 1, "it is one detection in one image"


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


@given(st.integers(0, 2**32 - 1), st.integers(0, 5), st.integers(1, 4))
def test_entries_of_a_model_read_back_to_their_context(seed: int, num: int, num_classes: int) -> None:
    rng = np.random.default_rng(seed)
    masks = np.zeros((num, SIZE, SIZE), bool)
    for mask in masks:
        top, left = rng.integers(0, SIZE // 2, 2)
        mask[top : top + rng.integers(1, 9), left : left + rng.integers(1, 9)] = True
    soft_vectors = rng.dirichlet(np.ones(num_classes + 1), num).astype(np.float32).reshape(num, num_classes + 1)
    encoded = encode_masks(masks)
    found = Instances(
        image_size_hw=(SIZE, SIZE),
        boxes_xyxy=mask_boxes(encoded),
        masks=tuple(encoded),
        class_indices=soft_vectors[:, :-1].argmax(axis=1).astype(np.int32),
        raw_scores=soft_vectors[:, :-1].max(axis=1),
        soft_vectors=soft_vectors,
        mask_quality=rng.random(num, dtype=np.float32),
    )
    category_ids = 10 * np.arange(1, num_classes + 1)
    entries = json.loads(json.dumps(results_entries("a.jpg", found, category_ids), allow_nan=False))
    index_of = {category_id: index for index, category_id in enumerate(category_ids.tolist())}
    read = unmatched_detections("x", entries, index_of)
    np.testing.assert_array_equal(read.context, instances_context(found))
    np.testing.assert_array_equal(read.raw_scores, found.raw_scores)
    np.testing.assert_array_equal(read.class_indices, found.class_indices)
