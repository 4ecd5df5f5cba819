"""Every setting reaches what it names in the training jobs, and nothing else.

Each job is taken apart into its smallest parts. A changed setting must change the named parts, and only those.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from every_setting import OTHER, override, settings_of
from prepared import prepared_run
from raylabel.config import Config, config_dict, load_config
from raylabel.dataset.annotated_set import AnnotatedSet
from raylabel.run.folder import RunFolder
from raylabel.run.models import EMBEDDER, TEACHER
from raylabel.stages import training_jobs
from raylabel.stages.training_jobs import describe_model, fold_teacher_job, student_job, teacher_job, warmup_job

BASE = {
    "calibration.folds": "3",
    "smoothing.kind": "similarity",
    "student.burn_in_steps": "1",
    "student.evaluate_every": "7",
    "teacher.evaluate_every": "7",
}
"""Settings by which each job has all its parts."""

JOBS: dict[str, Callable[[dict[str, Any], RunFolder], Any]] = {
    "warm-up": warmup_job,
    "teacher": teacher_job,
    "fold": partial(fold_teacher_job, fold=1),
    "student": partial(student_job, with_pool=True),
    "baseline": partial(student_job, with_pool=False),
}
OF_TEACHER = ("warm-up", "teacher", "fold")
OF_STUDENT = ("student", "baseline")

RECORDED = (
    "LabelledExamples",
    "PoolStream",
    "ValidationAP",
    "build_segmenter",
    "ensure_index",
    "federated_classes",
    "load_segmenter",
    "soft_targets",
    "view",
)
"""Names of `training_jobs` that only keep their arguments here."""


def record(name: str) -> Callable[..., Any]:
    """Return a function that keeps its arguments by name."""
    signature = inspect.signature(getattr(training_jobs, name))

    def kept(*args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind(*args, **kwargs).arguments
        if name == "build_segmenter":
            arguments["torch_seed"] = torch.initial_seed()
        made = SimpleNamespace(**arguments)
        return (made, {}) if name == "load_segmenter" else made

    return kept


def parts(name: str, value: Any) -> dict[str, Any]:
    """Take a value apart: part -> plain value."""
    inner: Mapping[str, Any] | None = None
    if isinstance(value, AnnotatedSet):
        return {name: sorted(str(image.image_id) for image in value.images)}
    if isinstance(value, RunFolder):
        return {name: value.uri}
    if isinstance(value, np.ndarray):
        return {name: value.tolist()}
    if isinstance(value, partial):
        return parts(name, value.args[0])
    if is_dataclass(value):
        inner = {field.name: getattr(value, field.name) for field in fields(value)}
    elif isinstance(value, SimpleNamespace):
        inner = vars(value)
    elif inspect.isfunction(value):
        return {}
    if inner is None:
        return {name: value}
    return {part: one for key, of_key in inner.items() for part, one in parts(f"{name}.{key}", of_key).items()}


def taken_apart(config: Config, run: RunFolder) -> dict[str, Any]:
    """Return the parts of every job of a config."""
    found: dict[str, Any] = {}
    for name, job_of in JOBS.items():
        if name == "fold" and not config.calibration.folds:
            continue
        build_segmenter, job = job_of(config_dict(config), run)
        found |= {**parts(f"{name}.model", build_segmenter()), **parts(name, job)}
    for name, settings in (("teacher", config.teacher), ("student", config.student)):
        found |= {f"{name}.described.{key}": value for key, value in describe_model(settings, "role").items()}
    return found


@dataclass(frozen=True)
class Made:
    """The parts of the jobs of the base config, and a function for the parts of a changed one."""

    before: dict[str, Any]
    of: Callable[[dict[str, str]], dict[str, Any]]


@pytest.fixture(scope="module")
def made(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = generated / "config.yaml"
    run = prepared_run(load_config(path, BASE), tmp_path_factory.mktemp("settings") / "run")

    def of(changes: dict[str, str]) -> dict[str, Any]:
        return taken_apart(load_config(path, BASE | changes), run)

    with pytest.MonkeyPatch.context() as patch:
        for name in RECORDED:
            patch.setattr(training_jobs, name, record(name))
        yield Made(before=of({}), of=of)


SAME: Any = object()
"""The value of the setting itself."""

CHANGED: Any = object()
"""Any other value than before."""

Effects = dict[str, Any]


def built(job: str) -> set[str]:
    """Return the parts of a job's model that differ between a new and a loaded one."""
    arguments = ("model", "num_classes", "weights", "min_size", "options", "torch_seed", "folder_uri", "own_classes")
    return {f"{job}.model.{name}" for name in arguments}


def each(jobs: tuple[str, ...], part: str, value: Any = SAME) -> Effects:
    return {f"{job}.{part}": value for job in jobs}


def in_pool(part: str, value: Any = SAME) -> Effects:
    """The part of the stream of committed labels, and of the relabelling after burn-in."""
    return {f"student.pool.{part}": value, f"student.relabel.{part}": value}


def choosing(part: str, value: Any = SAME) -> Effects:
    return {**in_pool(f"choice.{part}", value), f"student.pool.index.choice.{part}": value}


OF_JOBS: dict[str, Effects] = {
    "seed": {
        **each(("warm-up", "fold"), "model.torch_seed"),
        **each(OF_TEACHER, "seed"),
        **each(OF_STUDENT, "seed", 10),
        "student.pool.seed": CHANGED,
        "fold.labelled.annotated": CHANGED,
        "fold.labelled.class_targets.counts": CHANGED,
        "fold.labelled.federated.annotated": CHANGED,
    },
    "data.max_image_pixels": {
        **each(tuple(JOBS), "labelled.max_pixels"),
        **each(("teacher", *OF_STUDENT), "evaluate.max_pixels"),
        "student.pool.max_pixels": SAME,
    },
    "smoothing.kind": each(("teacher", "fold"), "labelled.class_targets.kind"),
    "smoothing.eps_min": each(tuple(JOBS), "labelled.class_targets.eps_min"),
    "smoothing.eps_max": each(tuple(JOBS), "labelled.class_targets.eps_max"),
    "smoothing.tau": each(tuple(JOBS), "labelled.class_targets.tau"),
    "smoothing.warmup_steps": {"warm-up.stop_step": 3, "teacher.start_step": 3},
    "smoothing.embedder": {
        **dict.fromkeys(built("teacher"), CHANGED),
        "teacher.model.torch_seed": 0,
        "warm-up.stop_step": 0,
        "teacher.start_step": 0,
    },
    "teacher.model": {
        **each(("warm-up", "fold"), "model.model"),
        "teacher.model.own_classes": CHANGED,
        "teacher.described.model": SAME,
    },
    "teacher.model_options": {**each(("warm-up", "fold"), "model.options"), "teacher.described.model_options": SAME},
    "teacher.weights": {**each(("warm-up", "fold"), "model.weights"), "warm-up.stop_step": 0, "teacher.start_step": 0},
    "teacher.min_size": {**each(("warm-up", "fold"), "model.min_size"), "teacher.described.min_size": SAME},
    "teacher.steps": each(OF_TEACHER, "steps"),
    "teacher.batch_size": each(OF_TEACHER, "labelled_per_batch"),
    "teacher.repeat_threshold": each(OF_TEACHER, "labelled.repeat_threshold"),
    "teacher.evaluate_images": {"teacher.evaluate.num_images": SAME},
    "student.init": {part: CHANGED for job in OF_STUDENT for part in built(job)},
    "student.model": {
        **each(OF_STUDENT, "model.model"),
        "teacher.model.own_classes": CHANGED,
        "student.described.model": SAME,
    },
    "student.model_options": {**each(OF_STUDENT, "model.options"), "student.described.model_options": SAME},
    "student.weights": each(OF_STUDENT, "model.weights"),
    "student.min_size": {**each(OF_STUDENT, "model.min_size"), "student.described.min_size": SAME},
    "student.steps": each(OF_STUDENT, "steps"),
    "student.repeat_threshold": {
        **each(OF_STUDENT, "labelled.repeat_threshold"),
        "student.pool.index.threshold": SAME,
    },
    "student.evaluate_images": each(OF_STUDENT, "evaluate.num_images"),
    # The config has 2 labelled and 2 pool images per step, so the baseline learns from 4 labelled ones.
    "student.labelled_per_batch": {"student.labelled_per_batch": 5, "baseline.labelled_per_batch": 7},
    "student.unlabelled_per_batch": {
        "student.unlabelled_per_batch": 3,
        "baseline.labelled_per_batch": 5,
        "student.pool.unlabelled_from": 3,
    },
    "student.unlabelled_weight": each(OF_STUDENT, "unlabelled_weight"),
    "student.targets": in_pool("targets.is_soft", False),
    "student.correct_targets": in_pool("targets.is_corrected"),
    "student.weight_by_score": in_pool("targets.weight_by_score"),
    "student.weight_masks_by": in_pool("targets.weight_by_quality", True),
    "student.doubtful_score": in_pool("targets.doubtful_score"),
    "student.select_by": choosing("min_foreground", None),
    "student.min_foreground": choosing("min_foreground"),
    # 4 burn-in steps of 2 pool images.
    "student.burn_in_steps": {"student.pool.unlabelled_from": 8, "student.relabel.from_step": 4},
    "label.score_threshold": {"student.relabel.score_threshold": SAME},
    "label.max_per_image": {"student.relabel.max_per_image": SAME},
    "label.mask_quality": {"student.relabel.mask_quality": SAME},
    "calibration.folds": {
        "fold.labelled.annotated": CHANGED,
        "fold.labelled.class_targets.counts": CHANGED,
        "fold.labelled.federated.annotated": CHANGED,
    },
    "selection.min_score": choosing("selection.min_score"),
    "selection.min_score_by_group": choosing("selection.min_score_by_group"),
    "selection.min_mask_quality": choosing("selection.min_mask_quality"),
    "selection.min_area": choosing("selection.min_area"),
    "selection.max_per_image": choosing("selection.max_per_image"),
}
"""Setting -> the parts that it changes besides `settings` of the jobs, and their values."""

for _setting in OTHER:
    _role, _, _name = _setting.partition(".")
    _jobs = {"teacher": OF_TEACHER, "student": OF_STUDENT}.get(_role, ())
    if _name.startswith("augmentation."):
        _part = _name.replace("augmentation", "augment.settings")
        OF_JOBS[_setting] = {
            **each(_jobs, f"labelled.{_part}"),
            **({f"student.pool.{_part.replace('augment', 'weak_view')}": SAME} if _role == "student" else {}),
            **(each(_jobs, "labelled.copy_paste") if _name.endswith("copy_paste") else {}),
        }
    if _name.startswith("strong_view."):
        OF_JOBS[_setting] = in_pool(_name.replace("strong_view", "augment.settings"))
    if _name.startswith("pool_losses."):
        OF_JOBS[_setting] = each(_jobs, _name)
    if _name.startswith("federated_loss."):
        OF_JOBS[_setting] = each(_jobs, f"labelled.{_name.replace('federated_loss', 'federated.settings')}")

WORKERS = (
    "num_workers",
    "min_workers",
    "cpus_per_worker",
    "gpus_per_worker",
    "memory_gb_per_worker",
    "decoding",
    "keep_checkpoints",
)
FOR_THE_LOOP = tuple(
    setting
    for setting in OTHER
    if setting not in OF_JOBS
    and (".optimizer." in setting or setting.partition(".")[2] in (*WORKERS, "checkpoint_every", "evaluate_every"))
)
"""Settings that reach the training as `settings` of the jobs alone."""

ELSEWHERE = {
    **{name: "test_the_data_of_a_config" for name in OTHER if name.startswith("data.") and name not in OF_JOBS},
    "evaluation.frequency": "test_ap_is_measured_by_the_groups_that_the_validation_file_declares",
    "data.tar_samples": "test_the_rule_for_tars_reaches_the_listing_and_no_fingerprint",
    "data.validation_in_pool": "test_a_setting_keeps_them",
    "data.allowed_schemes": "test_settings_allow_more",
    "data.allowed_roots": "test_settings_allow_more",
    "out": "test_the_command_line_may_name_another_folder",
    "smoothing.layer": "test_prototypes_are_made_of_the_layer",
    "student.learn_from_calibration": "test_the_student_learns_from_the_calibration_split",
    "student.rounds": "test_what_is_trained",
    "student.supervised_baseline": "test_what_is_trained",
    "calibration.corrector": "test_a_setting_of_the_calibration_changes_it",
    "calibration.num_bins": "test_a_setting_of_the_calibration_changes_it",
    "calibration.iou_threshold": "test_a_setting_of_the_calibration_changes_it",
    "label.shard_size": "test_a_setting_of_the_labels_changes_them",
    "label.top_k": "test_a_setting_of_the_labels_changes_them",
    "label.tile": "test_a_predictor_finds_the_same_objects_in_tiles",
    "label.batch_size": "test_a_predictor_predicts_as_the_settings_say",
    "label.max_bad_fraction": "test_a_share_of_bad_images_is_allowed",
    "label.num_workers": "test_ray_data_is_asked_for_the_actors",
    "label.num_cpus": "test_ray_data_is_asked_for_the_actors",
    "label.memory_gb": "test_ray_data_is_asked_for_the_actors",
    "label.num_gpus": "test_ray_data_is_asked_for_the_actors",
    "label.decoding": "test_a_predictor_reads_by_tasks_or_threads_ahead_of_its_batches",
}
"""Setting -> the test that changes it, where it is in no training job."""


def test_no_setting_is_left_out(generated: Path) -> None:
    """A new setting needs another value, and a test that this value changes something."""
    config = load_config(generated / "config.yaml")
    assert settings_of(config) == OTHER.keys()
    assert OTHER.keys() == {*OF_JOBS, *FOR_THE_LOOP, *ELSEWHERE}
    for setting in OTHER:
        assert attrgetter(setting)(config) != OTHER[setting], f"{setting} must be changed"
    text = "".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))
    assert not [test for test in ELSEWHERE.values() if f"def {test}(" not in text]


BESIDE = {
    name: {"student.init": "weights"}
    for name in OTHER
    if name.endswith((".model", ".model_options")) or name in ("student.weights", "student.min_size")
}
"""Setting -> settings that let it be changed alone. A student that begins with the teacher has the teacher's model."""


@pytest.mark.parametrize("setting", [*OF_JOBS, *FOR_THE_LOOP])
def test_a_setting_changes_what_it_names_and_nothing_else(setting: str, made: Made) -> None:
    value, effects = OTHER[setting], OF_JOBS.get(setting, {})
    beside = BESIDE.get(setting, {})
    before, after = made.of(beside) if beside else made.before, made.of({**beside, **override(setting)})
    changed = {part for part in before.keys() | after.keys() if before.get(part, SAME) != after.get(part, SAME)}
    ours = of_settings(setting)
    assert changed == effects.keys() | ours
    for part, expected in effects.items():
        if expected is not CHANGED:
            assert after[part] == (value if expected is SAME else expected), part
    for part in ours:
        assert after[part] == value, part


def of_settings(setting: str) -> set[str]:
    """Return the part `settings` of every job that a setting of teacher or student belongs to."""
    role, _, name = setting.partition(".")
    jobs = {"teacher": OF_TEACHER, "student": OF_STUDENT}.get(role, ())
    return {f"{job}.settings.{name}" for job in jobs}


def test_what_the_jobs_of_the_base_config_are(made: Made) -> None:
    """Facts that no single setting changes."""
    before = made.before
    assert before["warm-up.labelled.class_targets.kind"] == "none", "the embedder learns without smoothing"
    assert before["student.labelled.class_targets.kind"] == "none"
    assert before["student.seed"] == before["baseline.seed"] == before["teacher.seed"] + 1
    assert (before["warm-up.start_step"], before["warm-up.stop_step"], before["warm-up.steps"]) == (0, 2, 4)
    assert (before["teacher.start_step"], before["teacher.stop_step"], before["teacher.steps"]) == (2, None, 4)
    assert before["teacher.model.folder_uri"].endswith(EMBEDDER)
    assert before["student.model.folder_uri"] == before["baseline.model.folder_uri"]
    assert before["student.model.folder_uri"].endswith(TEACHER)
    assert before["baseline.pool"] is before["baseline.relabel"] is None
    assert (before["student.unlabelled_per_batch"], before["baseline.unlabelled_per_batch"]) == (2, 0)
    assert before["baseline.labelled_per_batch"] == 4
    assert set(before["fold.labelled.annotated"]) < set(before["teacher.labelled.annotated"])


def test_without_a_part_its_settings_make_nothing(made: Made) -> None:
    without = made.of({"student.burn_in_steps": "null", "student.evaluate_every": "0"})
    assert without["student.relabel"] is without["student.evaluate"] is without["student.pool.unlabelled_from"] is None
    assert made.of({"student.unlabelled_per_batch": "0"})["student.pool"] is None


def test_the_student_learns_from_the_calibration_split(made: Made) -> None:
    """There is such a split without folds only."""
    plain = made.of({"calibration.folds": "0"})
    kept = made.of({"calibration.folds": "0", "student.learn_from_calibration": "false"})
    for job in OF_STUDENT:
        more = set(plain[f"{job}.labelled.annotated"]) - set(kept[f"{job}.labelled.annotated"])
        assert len(more) == len(plain[f"{job}.labelled.annotated"]) - len(kept[f"{job}.labelled.annotated"]) > 0
        assert kept[f"{job}.labelled.annotated"] == plain["teacher.labelled.annotated"]
