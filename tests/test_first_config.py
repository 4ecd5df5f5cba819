"""`raylabel init` writes configs that fit the data and the device."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylabel.cli import main
from raylabel.config import Config, config_from_yaml, load_config
from raylabel.errors import InputError
from raylabel.first_config import MAX_EPOCHS, MIN_EPOCHS, Device, Labels, config_lines, config_text, write_first_config
from raylabel.stages.check import check_run

PATHS = {"labelled": "train.json", "images": "images", "pool": "s3://bucket/pool"}
PHOTOGRAPHS = Labels(num_images=1000, short_side=480, long_side=640)


def config_of(labels: Labels, device: Device, paths: dict[str, str] = PATHS) -> Config:
    return config_from_yaml(config_text(config_lines(labels, device, paths)).encode(), "test")


@given(
    st.integers(20, 200_000),
    st.integers(16, 5000),
    st.integers(1, 64),
    st.integers(0, 8),
    st.floats(2, 200),
    st.booleans(),
    st.booleans(),
)
def test_every_config_is_valid_and_its_lengths_are_usual(
    num_images: int, side: int, num_cpus: int, num_gpus: int, gib: float, has_imagenet: bool, is_federated: bool
) -> None:
    labels = Labels(num_images=num_images, short_side=side, long_side=2 * side, is_federated=is_federated)
    device = Device(num_cpus=num_cpus, num_gpus=num_gpus, gpu_memory_gib=gib, has_imagenet=has_imagenet)
    config = config_of(labels, device)
    kept = config.data.calibration.fraction if config.data.calibration else 0
    num_learnt = max(1, num_images * (1 - config.data.validation.fraction - kept))
    epochs = config.teacher.steps * config.teacher.batch_size / num_learnt
    assert epochs <= 1.1 * MAX_EPOCHS
    assert epochs >= 0.9 * MIN_EPOCHS - config.teacher.batch_size / num_learnt
    assert bool(config.calibration.folds) == (config.data.calibration is None)
    assert config.teacher.batch_size % config.teacher.num_workers == 0
    assert config.student.labelled_per_batch >= config.student.num_workers
    assert (config.teacher.gpus_per_worker, config.label.num_gpus) == ((1, 1) if num_gpus else (0, 0))
    assert config.teacher.federated_loss.enabled == config.student.federated_loss.enabled == is_federated


@pytest.mark.parametrize(
    ("labels", "device", "model"),
    [
        (PHOTOGRAPHS, Device(), "maskrcnn_efficientnet_lite0"),
        (PHOTOGRAPHS, Device(num_gpus=1, gpu_memory_gib=8), "maskrcnn_efficientnet_lite0"),
        (PHOTOGRAPHS, Device(num_gpus=2, gpu_memory_gib=24), "maskrcnn_resnet50_fpn_v2"),
        (PHOTOGRAPHS, Device(has_imagenet=False), "tiny_maskrcnn"),
        (Labels(num_images=1000, short_side=64, long_side=64), Device(), "tiny_maskrcnn"),
    ],
)
def test_the_model_fits_images_and_device(labels: Labels, device: Device, model: str) -> None:
    config = config_of(labels, device)
    assert config.teacher.model == config.student.model == model
    assert config.smoothing.layer == ("backbone" if config.teacher.weights == "imagenet" else None)


def test_the_command_writes_what_check_accepts(
    generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(generated)
    (tmp_path / "configs").mkdir()
    argv = ["init", "data/labelled.json", "data/images", "data/pool", "--validation", "data/val.json"]
    assert main([*argv, "--out", "configs/my.yaml"]) == 0
    assert "next: raylabel check configs/my.yaml" in capsys.readouterr().out
    text = (tmp_path / "configs" / "my.yaml").read_text()
    assert "  labelled: ../data/labelled.json" in text
    assert check_run(load_config("configs/my.yaml"), tmp_path / "run")["remarks"] == []
    assert main([*argv, "--out", "configs/my.yaml"]) == 2
    assert "configs/my.yaml: there is a file already" in capsys.readouterr().err
    assert (tmp_path / "configs" / "my.yaml").read_text() == text


@pytest.mark.parametrize("pool", ["no", "a\nb", "a\tb", "~no-such-user", " x ", "\u2028"])
def test_names_that_yaml_reads_as_something_else_are_quoted(
    pool: str, generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / pool).mkdir()
    labelled = tmp_path / "yes: #1.json"
    labelled.write_bytes((generated / "labelled.json").read_bytes())
    write_first_config(str(labelled), str(generated / "images"), pool, str(tmp_path / "my.yaml"), device=Device())
    data = load_config(str(tmp_path / "my.yaml")).data
    assert data.labelled == str(labelled)
    assert data.pool == str(tmp_path / pool)


def test_a_file_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    with pytest.raises(InputError, match=r"empty\.json"):
        write_first_config(str(tmp_path / "empty.json"), str(tmp_path), str(tmp_path), str(tmp_path / "my.yaml"))
    assert not (tmp_path / "my.yaml").exists()


@pytest.mark.parametrize("name", ["labelled", "images", "pool", "validation", "calibration"])
def test_a_path_that_is_not_there_is_refused(name: str, generated: Path, tmp_path: Path) -> None:
    paths = {"labelled": "labelled.json", "images": "images", "pool": "pool", "validation": "val.json"}
    given = {part: str(generated / path) for part, path in paths.items()} | {name: "absent"}
    with pytest.raises(InputError, match=f"^{name}: absent: there is no such file or folder$"):
        write_first_config(**given, out=str(tmp_path / "my.yaml"), device=Device())
    with pytest.raises(InputError, match=f"^{name}: must name a file or folder, got an empty text$"):
        write_first_config(**(given | {name: ""}), out=str(tmp_path / "my.yaml"), device=Device())
    assert not (tmp_path / "my.yaml").exists()


def test_a_pattern_is_a_pool(generated: Path, tmp_path: Path) -> None:
    pattern = "shards/part-{000..127}.tar"
    labelled, images = str(generated / "labelled.json"), str(generated / "images")
    write_first_config(labelled, images, pattern, str(tmp_path / "my.yaml"), device=Device())
    assert load_config(str(tmp_path / "my.yaml")).data.pool.endswith(pattern)
