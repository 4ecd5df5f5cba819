"""Configs are read strictly, refused with clear messages, and get absolute paths."""

from pathlib import Path

import pytest

from raylabel.config import Config, DataConfig, LabelledPortion, dump_config, load_config
from raylabel.errors import InputError
from raylabel.run.folder import RunFolder, load_run_config

DATA = "data: {labelled: a.json, images: im, calibration: {fraction: 0.1}, validation: b.json, pool: s3://x/y}\n"


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(DATA)
    return path


def test_paths_are_relative_to_the_config_and_uris_stay(config_file: Path) -> None:
    config = load_config(config_file)
    assert config.data.labelled == str(config_file.parent / "a.json")
    assert config.data.pool == "s3://x/y"


def test_the_file_of_a_portion_is_relative_to_the_config(config_file: Path) -> None:
    overrides = {"data.labelled": "{file: a.json, fraction: 0.1}", "data.pool": "null"}
    config = load_config(config_file, overrides)
    assert config.data.labelled == LabelledPortion(file=str(config_file.parent / "a.json"), fraction=0.1, seed=0)
    assert config.data.labelled_file == load_config(config_file).data.labelled_file
    assert load_config(config_file, {**overrides, "data.labelled.fraction": "0.05"}).data.labelled == LabelledPortion(
        file=str(config_file.parent / "a.json"), fraction=0.05
    )


def test_rules_for_tars_are_no_path(config_file: Path) -> None:
    assert load_config(config_file).data.tar_samples == "files"
    assert load_config(config_file, {"data.tar_samples": "webdataset"}).data.tar_samples == "webdataset"
    with pytest.raises(InputError, match=r"data\.tar_samples: input should be 'files' or 'webdataset', got 'all'"):
        load_config(config_file, {"data.tar_samples": "all"})


def test_the_fixed_keys_have_their_documented_defaults(config_file: Path) -> None:
    config = load_config(config_file)
    assert (config.smoothing.kind, config.smoothing.eps_min, config.smoothing.eps_max) == ("none", 0.02, 0.2)
    assert (config.smoothing.tau, config.seed) == (0.1, 0)
    assert (config.teacher.model, config.teacher.steps, config.teacher.batch_size) == ("tiny_maskrcnn", 2500, 8)
    assert (config.calibration.corrector, config.calibration.num_bins, config.calibration.folds) == ("auto", 15, 0)
    assert (config.label.shard_size, config.label.num_workers, config.label.num_cpus) == (256, "auto", 1)
    assert (config.label.num_gpus, config.label.max_bad_fraction) == (0, 0.05)
    assert (config.selection.min_score, config.selection.max_per_image) == (0.5, 300)
    assert (config.student.steps, config.student.labelled_per_batch) == (600, 4)
    assert (config.student.unlabelled_per_batch, config.student.unlabelled_weight) == (12, 1.0)


def test_a_dumped_config_reads_back_equal(config_file: Path, tmp_path: Path) -> None:
    overrides = {"teacher.steps": "700", "selection.min_score_by_group": "{r: 0.3}"}
    config = load_config(config_file, {**overrides, "data.labelled": "{file: a.json, fraction: 0.1, seed: 2}"})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(dump_config(config))
    assert load_run_config(RunFolder(str(tmp_path / "run"))) == config


def test_overrides_are_yaml_values(config_file: Path) -> None:
    config = load_config(config_file, {"teacher.optimizer.learning_rate": "1e-3", "smoothing.kind": "none"})
    assert (config.teacher.optimizer.learning_rate, config.smoothing.kind) == (0.001, "none")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("teacher.stepz", "3", "unknown key teacher.stepz. Did you mean teacher.steps?"),
        ("student.pool_losses.mask", "1", "Did you mean student.pool_losses.masks?"),
        ("zzz", "1", "unknown key zzz. Valid names: data, smoothing"),
        ("teacher.steps", "-3", "teacher.steps: .* greater than or equal to 0, got -3"),
        ("teacher.steps", "many", "teacher.steps: .* integer"),
        ("calibration.folds", "1", "calibration.folds must be 0 or >= 2, got 1"),
        ("data.calibration", "null", "data.calibration is required, unless calibration.folds is set"),
        ("data.calibration.fraction", "2", "fraction: .* less than 1, got 2"),
        ("data.validation", "{fraction: 0.95}", "must sum to < 1"),
        ("data.pool", "null", "data.pool is required, unless data.labelled has a fraction"),
        ("data.labelled", "{file: a.json}", "data.labelled.fraction is required"),
        (
            "data.labelled.fraction",
            "0.1",
            r"data.labelled must be a section, got 'a.json'. Give all of it, as --data.lab",
        ),
        ("data.labelled", "{file: a.json, fraction: 1}", "data.labelled.fraction: .* less than 1, got 1"),
        ("data.labelled", "{file: a.json, share: 0.1}", "unknown key data.labelled.share. Valid names: file, fraction"),
        ("calibration.corrector", "magic", "calibration.corrector: .*'hierarchical'.* got 'magic'"),
        ("smoothing.eps_min", "0.9", "eps_min must be <= smoothing.eps_max"),
        ("smoothing.warmup_steps", "2501", "warmup_steps must be <= teacher.steps"),
        ("student.min_workers", "3", "student.min_workers must be <= student.num_workers 2, got 3"),
        ("teacher.optimizer.learning_rate", ".inf", "teacher.optimizer.learning_rate: .*finite"),
        ("teacher.learning_rate", "0.1", "unknown key teacher.learning_rate. Valid names: .*optimizer"),
        ("teacher.optimizer.milestones", "[0.5, 1.5]", "teacher.optimizer.milestones.*less than 1, got 1.5"),
        ("student.strong_view.min_scale", "1.5", "min_scale must be <= max_scale 1, got 1.5"),
        ("teacher", "3", "teacher: "),
        ("teacher.model", "maskrcnn_resnet50_fpn_v2", "student.init: teacher needs student.model maskrcnn_resnet50"),
        ("teacher.steps", "[", "--teacher.steps: not YAML: while parsing"),
    ],
)
def test_bad_settings_name_key_and_value(config_file: Path, key: str, value: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        load_config(config_file, {key: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        ({"data.pool": "{fraction: 0.3}"}, r"got {fraction: 0.3}. Remove data.pool: the other labelled images are"),
        ({"data.pool": "null", "data.pool_truth": "t.json"}, r"data.pool_truth must be null where data.pool is, got t"),
    ],
)
def test_what_a_portion_leaves_is_the_pool(config_file: Path, beside: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(config_file, {"data.labelled": "{file: a.json, fraction: 0.1}", **beside})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"data: [", "not YAML"),
        (b"- 1\n", "must be a mapping of settings, got list"),
        (b"", "data is required"),
        (b"data: {labelled: a.json}", "data.images is required"),
        (b"\xff\xfe\x00", "not YAML"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        load_config(path)
    assert str(path) in str(error.value)


def test_a_missing_config_and_a_folder_that_is_no_run_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.yaml: no such config file"):
        load_config(tmp_path / "absent.yaml")
    with pytest.raises(InputError, match="not a run folder"):
        load_run_config(RunFolder(str(tmp_path)))


def test_the_config_is_frozen() -> None:
    config = Config(data=DataConfig(labelled="a", images="b", calibration="c", validation="d", pool="e"))
    with pytest.raises(AttributeError):
        config.seed = 3
