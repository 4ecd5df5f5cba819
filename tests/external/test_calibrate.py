"""`calibrate` on a results file: what it writes, counts and says."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raylabel.calibration import ReliabilityBins
from raylabel.cli import main
from raylabel.external import calibrate_results, correct_results
from raylabel.files.json_files import read_json
from raylabel.files.tables import read_table
from raylabel.report.console import format_summary
from raylabel.schema import CLASSES, DETECTIONS
from small_results import Files, rle


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
    assert ": categories must be those of " in capsys.readouterr().err
    assert main(["calibrate", "config.yaml", "--train-annotations", train]) == 2
    assert "give either a config or --predictions" in capsys.readouterr().err


@pytest.mark.slow
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
