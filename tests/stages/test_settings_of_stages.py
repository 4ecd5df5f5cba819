"""Every setting restarts the stages that it changes, and reaches them. All stages run in this process."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from every_setting import CCECE, OTHER, override
from prepared import prepared_run
from raylabel.calibration import Detections
from raylabel.config import Config, TrainingConfig, config_dict, load_config
from raylabel.evaluation.evaluated_set import EvaluatedSet
from raylabel.evaluation.precision_intervals import jackknife_results
from raylabel.files.digests import digest
from raylabel.run.calibration import load_detections
from raylabel.run.data import RunData
from raylabel.run.folder import STAGES, RunFolder
from raylabel.run.models import BASELINE, EMBEDDER, STUDENT, TEACHER
from raylabel.run.rounds import further_rounds, round_config
from raylabel.stages import calibrate, distill, evaluate, label, prototypes, teacher
from raylabel.stages.run import run_pipeline
from raylabel.stages.states import FINISHED, stage_states
from without_ray import Silent, put_stages_here


@pytest.fixture(scope="module", autouse=True)
def stages_here() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        put_stages_here(patch)
        yield


@pytest.fixture(scope="module")
def whole(generated: Path, tmp_path_factory: pytest.TempPathFactory, stages_here: None) -> RunFolder:
    run = RunFolder(str(tmp_path_factory.mktemp("whole") / "run"))
    run_pipeline(load_config(generated / "config.yaml", CCECE), run)
    return run


NOTHING = "nothing"
"""Where a setting restarts no stage."""

WHERE_OR_HOW_FAST = (
    "accumulate",
    "precision",
    "channels_last",
    "compile",
    "num_workers",
    "min_workers",
    "cpus_per_worker",
    "gpus_per_worker",
    "memory_gb_per_worker",
    "memory_gb",
    "num_cpus",
    "num_gpus",
    "decoding",
    "batch_size",
    "checkpoint_every",
    "keep_checkpoints",
    "evaluate_every",
    "evaluate_images",
    "max_bad_fraction",
)

FIRST: dict[str, str] = {
    "seed": "prototypes",
    "out": NOTHING,
    "data.labelled": "prototypes",
    "data.images": "prototypes",
    "data.calibration": "calibrate",
    "data.validation": "evaluate",
    "data.pool": "label",
    "data.pool_truth": "evaluate",
    "data.max_image_pixels": "label",
    "data.tar_samples": NOTHING,
    "data.validation_in_pool": NOTHING,
    "data.allowed_schemes": NOTHING,
    "data.allowed_roots": NOTHING,
    "smoothing.kind": "teacher",
    "smoothing.eps_min": "teacher",
    "smoothing.eps_max": "teacher",
    "smoothing.tau": "teacher",
    "smoothing.warmup_steps": "prototypes",
    "smoothing.embedder": "prototypes",
    "smoothing.layer": "prototypes",
    "teacher.batch_size": "prototypes",
    "calibration.corrector": "calibrate",
    "calibration.num_bins": "calibrate",
    "calibration.folds": "calibrate",
    "calibration.iou_threshold": "calibrate",
    "label.shard_size": "label",
    "label.score_threshold": "calibrate",
    "label.max_per_image": "calibrate",
    "label.top_k": "label",
    "label.mask_quality": "calibrate",
    "label.tile": "calibrate",
    "student.rounds": "evaluate",
    "evaluation.frequency": "evaluate",
}
"""Setting -> the first stage that it changes, where that is not the training of its model."""


def first_stage(setting: str) -> str:
    if setting in FIRST:
        return FIRST[setting]
    section, _, name = setting.partition(".")
    if name.rpartition(".")[2] in WHERE_OR_HOW_FAST:
        return NOTHING
    return {"teacher": "prototypes", "student": "distill", "selection": "label"}[section]


@pytest.mark.parametrize("setting", OTHER)
def test_a_setting_restarts_the_stages_that_it_changes(setting: str, generated: Path, whole: RunFolder) -> None:
    """Stages that need a changed one are changed too. Weights and embedders are files of the run here."""
    files = {"embedder": str(whole.path(EMBEDDER)), "weights": f"{whole.path(EMBEDDER)}/model.safetensors"}
    value = files.get(setting.rpartition(".")[2])
    changes = {setting: value} if value else override(setting)
    beside = {"student.init": "weights"} if setting.endswith((".model", ".model_options")) else {}
    path = generated / "config.yaml"
    states, names = {}, [spec.name for spec in STAGES]
    for number, overrides in enumerate(({**CCECE, **beside}, {**CCECE, **beside, **changes})):
        config = load_config(path, overrides)
        states[number], _ = stage_states(config, whole, RunData(config))
    changed = [name for name in names if states[0][name] == FINISHED != states[1][name]]
    first = first_stage(setting)
    if beside:  # because this restarts `distill` before
        assert changed == ([] if setting.startswith("student.") else ["prototypes", "teacher", "calibrate", "label"])
        return
    expected = [] if first == NOTHING else names[names.index(first) :]
    assert changed == expected


class StopError(Exception):
    """Ends a stage before its training."""


@pytest.mark.parametrize("with_baseline", [True, False])
def test_what_is_trained(
    with_baseline: bool, whole: RunFolder, generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The student learns with the pool, and its baseline without. Both have the student's settings and steps."""
    asked: list[tuple[Any, TrainingConfig]] = []

    def train(trainings: Any, *, settings: TrainingConfig, **_: Any) -> None:
        asked.append((trainings, settings))
        raise StopError

    monkeypatch.setattr(distill, "train_on_ray", train)
    copied = RunFolder(str(shutil.copytree(whole.uri, tmp_path / "run")))
    student = {
        **CCECE,
        "student.steps": "77",
        "student.supervised_baseline": str(with_baseline),
        "teacher.num_workers": "7",
    }
    config = load_config(generated / "config.yaml", student)
    with pytest.raises(StopError):
        distill.run_stage(config, copied)
    [(trainings, settings)] = asked
    assert settings == config.student
    assert [one.folder for one in trainings] == [STUDENT, BASELINE][: 1 + with_baseline]
    assert [one.description["role"] for one in trainings] == ["student", "supervised"][: 1 + with_baseline]
    assert {one.num_steps for one in trainings} == {77}
    assert [one.build()[1].pool is not None for one in trainings] == [True, False][: 1 + with_baseline]
    assert len({digest(one.identity) for one in trainings}) == len(trainings)
    further = further_rounds(load_config(generated / "config.yaml", {"student.rounds": "3"}), copied)
    assert list(further) == [2, 3]
    assert further_rounds(config, copied) == {}


@pytest.mark.parametrize("is_teacher", [True, False])
def test_what_is_trained_before(
    is_teacher: bool, generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warm-up and the teacher share the teacher's 9 steps, of which 2 are the warm-up's."""
    asked: list[tuple[Any, TrainingConfig]] = []

    def train(trainings: Any, *, settings: TrainingConfig, **_: Any) -> None:
        asked.append((trainings, settings))
        raise StopError

    config = load_config(generated / "config.yaml", {"teacher.steps": "9", "student.num_workers": "7"})
    run = prepared_run(config, tmp_path / "run")
    module, num_steps, role = (teacher, 7, "teacher") if is_teacher else (prototypes, 2, "embedder")
    monkeypatch.setattr(module, "train_on_ray", train)
    with pytest.raises(StopError):
        module.run_stage(replace(config, seed=5), run)
    [([training], settings)] = asked
    assert settings == config.teacher
    assert (training.num_steps, training.description["role"]) == (num_steps, role)
    assert training.folder == (TEACHER if is_teacher else EMBEDDER)


def test_average_precision_needs_predictions_below_the_pools_threshold(whole: RunFolder, generated: Path) -> None:
    """The AP of every model comes from the whole ranking, whatever `label.score_threshold` says."""
    overrides = {"label.score_threshold": "0.5", "label.max_per_image": "2", "label.top_k": "3"}
    config = load_config(generated / "config.yaml", overrides)
    uris = {"teacher": whole.path(TEACHER), "student": whole.path(STUDENT)}
    worker = evaluate.EvaluateShard(
        config=config_dict(config), run=whole, model_uris=uris, correctors={}, of_set={}, counter=Silent()
    )
    tables = dict(worker.predict({"shard_id": 0, "rows": list(range(8))}))
    assert [(arm, row) for arm in tables for row in tables[arm]["row"].to_pylist()] == [
        (arm, row) for arm in uris for row in range(8)
    ]
    rows = [row for table in tables.values() for row in table.to_pylist()]
    instances = [one for row in rows for one in row["instances"]]
    assert min(one["raw_score"] for one in instances) < 0.5
    assert {len(one["soft_classes"]) for one in instances} == {3}
    assert max(len(row["instances"]) for row in rows) == 2


class Halving:
    """A corrector that halves scores."""

    def __call__(self, detections: Detections) -> np.ndarray:
        return detections.raw_scores / 2

    def to_json(self) -> dict[str, Any]:
        return {}


def test_a_models_corrected_results_have_its_correctors_scores(
    whole: RunFolder, generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best class of each object gets half of its score, and the groups are those that the file declares."""
    given: list[Any] = []
    results: dict[str, dict[Any, Any]] = {}

    class Recording(EvaluatedSet):
        def __init__(self, annotated: Any, **options: Any) -> None:
            given.append(options)
            super().__init__(annotated, **options)

        def match(self, model: str, truth: Any, of_images: Any) -> pa.Table:
            results.setdefault(model, {}).update(of_images)
            return super().match(model, truth, of_images)

    monkeypatch.setattr(evaluate, "EvaluatedSet", Recording)
    monkeypatch.setattr(evaluate, "_correctors", lambda config, run: {"student": Halving()})
    monkeypatch.setattr(evaluate, "corrector_from_json", lambda content: Halving())
    config = load_config(generated / "config.yaml", CCECE)
    data = RunData(config)
    measured, _ = evaluate._evaluate_models(config, whole, data, verify=False)
    assert list(measured) == list(results) == ["teacher", "supervised", "student", "student+corrector"]
    assert {len(of_images) for of_images in results.values()} == {len(data.validation)}
    image_id = next(image_id for image_id, rows in results["student"].items() if rows)
    raw, corrected = (max(row["score"] for row in results[name][image_id]) for name in ("student", "student+corrector"))
    assert corrected < raw
    content, groups = data.validation.to_json(), data.measured_groups.of_category
    for name, of_images in results.items():
        rows = [row for of_image in of_images.values() for row in of_image]
        assert measured[name] == jackknife_results(content, rows, frequency_groups=groups)
    assert [one["frequency_groups"] for one in given] == [data.measured_groups.of_category] * 2


def test_detections_keep_the_models_own_context(whole: RunFolder) -> None:
    """Mask quality, background and runner-up are known for raylabel's models alone."""
    detections, _ = load_detections(whole)
    assert detections.context is not None
    assert not np.isnan(detections.context).any()


def test_a_further_round_trains_no_baseline(config: Config) -> None:
    of_round = round_config(replace(config, student=replace(config.student, rounds=3)))
    assert (of_round.student.rounds, of_round.student.supervised_baseline) == (1, False)
    assert replace(of_round, student=config.student) == config


@pytest.mark.parametrize(
    "changes", [{"selection.min_score": "0.25"}, {"calibration.corrector": "temperature"}, {"label.top_k": "3"}]
)
def test_other_labels_make_another_student(
    changes: dict[str, str], whole: RunFolder, generated: Path, tmp_path: Path
) -> None:
    """After the labels are made or selected again, they are finished, and the student is not."""
    copied = RunFolder(str(shutil.copytree(whole.uri, tmp_path / "run")))
    config = load_config(generated / "config.yaml", {**CCECE, **changes})
    calibrate.run_stage(config, copied)
    label.run_stage(config, copied)
    states, _ = stage_states(config, copied, RunData(config))
    again = [name for name, state in states.items() if state != FINISHED]
    assert again == ["distill", "evaluate", "report"]
