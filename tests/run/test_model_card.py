"""The model card: a header that YAML reads, the figures of the run, and nothing that the run does not know."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from raylabel.config import Config
from raylabel.run.folder import RunFolder, load_run_config
from raylabel.run.metrics import load_metrics
from raylabel.run.model_card import CARD, commit_cards


def header_and_text(card: Path) -> tuple[dict[str, Any], str]:
    _, header, text = card.read_text().split("---\n", 2)
    return yaml.safe_load(header), text


@pytest.fixture
def run(trained: RunFolder, tmp_path: Path) -> RunFolder:
    shutil.copytree(trained.uri, tmp_path / "run")
    return RunFolder(str(tmp_path / "run"))


@pytest.fixture
def config(run: RunFolder) -> Config:
    return load_run_config(run)


def test_the_stages_write_the_cards(trained: RunFolder) -> None:
    metrics = load_metrics(trained)
    assert metrics is not None
    for arm in ("teacher", "student"):
        header, text = header_and_text(Path(trained.path(arm), CARD))
        assert header["library_name"] == "raylabel"
        assert header["pipeline_tag"] == "image-segmentation"
        [result] = header["model-index"][0]["results"]
        figures = metrics["validation"][arm]
        expected = {f"mask_{name}": figures[name] for name in ("AP", "APr") if figures[name] is not None}
        assert {one["type"]: one["value"] for one in result["metrics"]} == pytest.approx(expected, abs=1e-4)
        assert f'rl.load_model("RUN/{arm}")' in text
        assert f"| {arm} | {100 * figures['AP']:.1f} ± " in text
        assert "| supervised |" in text
        for row in json.loads(Path(trained.path("classes.json")).read_text())["categories"]:
            name = row["name"].replace("_", "\\_")
            assert f"| {row['category_id']} | {name} | {row['frequency_group']} | {row['num_train_images']} |" in text
        assert "Training started from nothing" in text
        fingerprint = json.loads(Path(trained.path(arm, "artifact.json")).read_text())["fingerprint"]
        assert fingerprint in text
        assert trained.uri not in text
    assert not Path(trained.path("student-calibration", "teacher", CARD)).exists()


def test_the_calibration_is_that_of_the_model(trained: RunFolder) -> None:
    for arm, place in (("teacher", "calibration"), ("student", "student-calibration/calibration")):
        artifact = json.loads(Path(trained.path(place, "artifact.json")).read_text())
        raw, corrected = artifact["raw"], artifact["calibrated_cross_validated"]
        _, text = header_and_text(Path(trained.path(arm), CARD))
        assert f"| ECE | {raw['ece']:.3f} | {corrected['ece']:.3f} |" in text
        assert f"| CCECE | {raw['ccece']['all']:.3f} | {corrected['ccece']['all']:.3f} |" in text


def test_figures_of_other_models_are_left_out(run: RunFolder, config: Config) -> None:
    """A student that was trained again has neither AP nor a corrector, until `evaluate` has run again."""
    artifact = json.loads(Path(run.path("student", "artifact.json")).read_text())
    Path(run.path("student", "artifact.json")).write_text(json.dumps(artifact | {"fingerprint": "another"}))
    commit_cards(config, run)
    header, text = header_and_text(Path(run.path("student"), CARD))
    assert "model-index" not in header
    assert "Not measured yet" in text
    assert "No corrector yet: `raylabel evaluate` fits one" in text


def test_only_trained_models_get_a_card(run: RunFolder, config: Config) -> None:
    shutil.rmtree(run.path("student"))
    Path(run.path("teacher", CARD)).unlink()
    commit_cards(config, run)
    assert Path(run.path("teacher", CARD)).exists()
    assert not Path(run.path("student")).exists()


def test_weights_are_named_and_class_names_stay_in_their_cell(run: RunFolder, config: Config) -> None:
    content = json.loads(Path(run.path("classes.json")).read_text())
    content["categories"][0]["name"] = "a|b\n<script>"
    Path(run.path("classes.json")).write_text(json.dumps(content))
    commit_cards(replace(config, teacher=replace(config.teacher, weights="torchvision:A_Weights.COCO_V1")), run)
    for arm in ("teacher", "student"):
        _, text = header_and_text(Path(run.path(arm), CARD))
        assert re.search(r"^\| \d+ \| a\\\|b \\<script\\> \|", text, re.MULTILINE)
        assert r"weights torchvision:A\_Weights.COCO\_V1. The config states neither their licence" in text


def test_a_copy_keeps_the_names_of_its_classes(trained: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(trained.path("student"), tmp_path / "copy")
    assert (tmp_path / "copy" / "classes.json").read_text() == Path(trained.path("classes.json")).read_text()
