"""One file and one line of `CORRECTOR_KINDS` add a corrector to every public function."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from raylabel.calibration import Corrector, FitContext, corrector_from_json, fit_corrector
from raylabel.calibration import correctors as correctors_folder
from raylabel.cli import main
from raylabel.config import CORRECTOR_KINDS, parse_config
from raylabel.errors import InputError
from raylabel.files.json_files import commit_json, read_json
from raylabel.masks.rle import encode_masks
from simulated_detections import calibrated, context, on_grid, overconfident, simulated

FOLDER = Path(__file__).resolve().parents[2] / "support" / "toy_correctors"


@pytest.fixture(autouse=True)
def scaled_is_added(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the file into `calibration/correctors`, and the line into the table."""
    monkeypatch.setattr(correctors_folder, "__path__", [*correctors_folder.__path__, str(FOLDER)])
    monkeypatch.setitem(CORRECTOR_KINDS, "scaled", "scaled:ScaledCorrector")
    yield
    sys.modules.pop(f"{correctors_folder.__name__}.scaled", None)


def test_a_config_may_name_it() -> None:
    data = dict.fromkeys(("labelled", "images", "calibration", "validation", "pool"), "x")
    config = parse_config({"data": data, "calibration": {"corrector": "scaled"}})
    assert config.calibration.corrector == "scaled"
    with pytest.raises(InputError, match=r"calibration\.corrector: .*'auto' or 'scaled', got 'platt'"):
        parse_config({"data": data, "calibration": {"corrector": "platt"}})


def test_fitted_saved_loaded_and_applied(tmp_path: Path) -> None:
    detections = simulated(0, 3000, overconfident)
    corrector = fit_corrector("scaled", detections, context=context())
    uri = str(tmp_path / "corrector.json")
    commit_json(uri, corrector.to_json())
    loaded: Corrector = corrector_from_json(read_json(uri))
    factor = detections.is_correct.sum() / detections.raw_scores.sum()
    np.testing.assert_allclose(loaded(on_grid(0)), factor * on_grid(0).raw_scores)
    assert loaded == corrector


def test_auto_tries_it() -> None:
    fitted: FitContext = context()
    trials = fit_corrector("auto", simulated(0, 400, calibrated), context=fitted).to_json()["cross_validation"]
    assert list(trials) == [kind for kind in CORRECTOR_KINDS if kind != "auto"]


def test_the_command_line_offers_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = encode_masks(np.ones((1, 8, 8), dtype=bool))[0]
    segmentation = {"size": mask["size"], "counts": mask["counts"].decode()}
    box = {"category_id": 3, "bbox": [0, 0, 8, 8], "segmentation": segmentation}
    truth = {
        "images": [{"id": image, "file_name": f"{image}.jpg", "height": 8, "width": 8} for image in range(2)],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 0, "iscrowd": 0, "area": 64, **box}],
    }
    results = [{"image_id": image, "score": 0.8, **box} for image in range(2)]
    for name, content in (("truth", truth), ("results", results)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    predictions, out = str(tmp_path / "results.json"), str(tmp_path / "out")
    argv = ["calibrate", "--predictions", predictions, "--annotations", str(tmp_path / "truth.json"), "--out", out]
    assert main([*argv, "--corrector", "scaled"]) == 0
    corrected = str(tmp_path / "corrected.json")
    argv = ["correct", "--corrector", f"{out}/corrector.json", "--predictions", predictions, "--out", corrected]
    assert main(argv) == 0
    assert [one["score"] for one in json.loads(Path(corrected).read_text())] == [0.5, 0.5]
    assert main(["recalibrate", str(tmp_path), "--corrector", "platt"]) == 2
    assert "auto, scaled, got platt" in capsys.readouterr().err
