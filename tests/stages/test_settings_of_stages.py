"""Every setting restarts the stages that it changes, and changes what they make. All stages run in this process."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from every_setting import OTHER, override
from fakes import FakeSegmenter
from prepared import prepared_run
from raylabel.calibration import Detections, ReliabilityBins
from raylabel.config import Config, TrainingConfig, config_dict, load_config
from raylabel.errors import InputError
from raylabel.files.storage import digest, read_table
from raylabel.run.calibration import fit_and_commit, load_corrector, load_detections
from raylabel.run.classes import load_classes
from raylabel.run.data import RunData
from raylabel.run.folder import STAGES, RunFolder
from raylabel.run.models import BASELINE, EMBEDDER, STUDENT, TEACHER
from raylabel.run.rounds import further_rounds, round_config
from raylabel.stages import calibrate, distill, evaluate, label, prototypes, teacher
from raylabel.stages.run import run_pipeline
from raylabel.stages.states import FINISHED, stage_states
from stored_labels import label_rows
from without_ray import Silent, put_stages_here

CCECE = {"calibration.corrector": "ccece"}
"""A corrector that is fitted at once."""


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


Rows = list[dict[str, Any]]


def labelled(config: Config, folder: Path) -> tuple[Rows, dict[str, Any]]:
    run = prepared_run(config, folder)
    artifact = label.run_stage(config, run)
    return [one for row in label_rows(run) for one in row["instances"]], artifact


OF_LABELS: dict[str, Callable[[Rows, dict[str, Any]], bool]] = {
    "label.shard_size": lambda rows, artifact: artifact["num_shards"] == 7,  # 32 images
    "label.score_threshold": lambda rows, artifact: min(one["raw_score"] for one in rows) >= 0.5,
    "label.max_per_image": lambda rows, artifact: len(rows) < 32,
    "label.top_k": lambda rows, artifact: {len(one["soft_classes"]) for one in rows} == {2},
    "label.mask_quality": lambda rows, artifact: min(one["mask_quality"] for one in rows) < 1,
}
"""Setting -> a fact about the labels that holds with its other value alone."""


@pytest.mark.parametrize("setting", OF_LABELS)
def test_a_setting_of_the_labels_changes_them(setting: str, generated: Path, tmp_path: Path) -> None:
    path = generated / "config.yaml"
    before = labelled(load_config(path), tmp_path / "before")
    after = labelled(load_config(path, override(setting)), tmp_path / "after")
    assert not OF_LABELS[setting](*before)
    assert OF_LABELS[setting](*after)
    assert after[0]


def test_a_share_of_bad_images_is_allowed(config: Config, tmp_path: Path) -> None:
    """One of four images can't be read."""
    (tmp_path / "pool").mkdir()
    for number in range(3):
        Image.fromarray(np.full((32, 32, 3), number, np.uint8)).save(tmp_path / "pool" / f"{number}.png")
    (tmp_path / "pool" / "3.png").write_bytes(b"no image")
    config = replace(config, data=replace(config.data, pool=str(tmp_path / "pool")))
    with pytest.raises(InputError, match=r"label\.max_bad_fraction"):
        labelled(replace(config, label=replace(config.label, max_bad_fraction=0.24)), tmp_path / "strict")
    _, artifact = labelled(replace(config, label=replace(config.label, max_bad_fraction=0.25)), tmp_path / "lenient")
    assert artifact["num_quarantined"] == 1


SELECTIONS: list[dict[str, Any]] = [
    {},
    {"min_score": 0.25},
    {"min_score_by_group": {"r": 0.25, "f": 0.9}},
    {"min_mask_quality": 0.25},
    {"min_area": 170},
    {"max_per_image": 1},
]


def test_the_selection_is_counted_by_hand(config: Config, tmp_path: Path) -> None:
    """Each image keeps its best predictions that pass all limits. The mask quality of agreement varies."""
    config = replace(config, label=replace(config.label, mask_quality="agreement"))
    run = prepared_run(config, tmp_path / "run")
    label.run_stage(config, run)
    groups, counts = load_classes(run).frequency_groups, []
    for limits in SELECTIONS:
        selection = replace(config.selection, **limits)
        found = label.count_selection(selection, run)
        by_group = {"r": 0, "c": 0, "f": 0}
        for row in label_rows(run):
            passing = [
                one
                for one in row["instances"]
                if one["calibrated_score"]
                >= selection.min_score_by_group.get(groups[one["class_index"]], selection.min_score)
                and one["mask_quality"] >= selection.min_mask_quality
                and one["mask_area"] >= selection.min_area
            ]
            for one in sorted(passing, key=lambda one: -one["calibrated_score"])[: selection.max_per_image]:
                by_group[groups[one["class_index"]]] += 1
        assert found["kept_by_group"] == by_group
        assert found["kept"] == sum(by_group.values())
        assert found["kept"] + sum(found["dropped"].values()) == sum(len(row["instances"]) for row in label_rows(run))
        counts.append(found["kept"])
    assert all(0 < count < counts[0] for count in counts[1:])


Calibrated = tuple[RunFolder, dict[str, Any]]


def num_bins_of(calibrated: Calibrated) -> int:
    run, _ = calibrated
    return ReliabilityBins.from_table(read_table(run.path("calibration", "bins.parquet"))).num_bins


OF_CALIBRATION: dict[str, Callable[[Calibrated], Any]] = {
    "calibration.corrector": lambda calibrated: (load_corrector(calibrated[0]).kind, calibrated[1]["corrector"]),
    "calibration.num_bins": num_bins_of,
    "calibration.iou_threshold": lambda calibrated: calibrated[1]["num_correct"],
    "label.score_threshold": lambda calibrated: -calibrated[1]["num_detections"],
    "label.max_per_image": lambda calibrated: calibrated[1]["num_detections"] <= calibrated[1]["num_split_images"],
}
"""Setting -> what it changes, in rising order."""


@pytest.mark.parametrize("setting", OF_CALIBRATION)
def test_a_setting_of_the_calibration_changes_it(setting: str, generated: Path, tmp_path: Path) -> None:
    found = []
    for number, overrides in enumerate((CCECE, {**CCECE, **override(setting)})):
        config = load_config(generated / "config.yaml", overrides)
        run = prepared_run(config, tmp_path / str(number))
        (tmp_path / str(number) / "calibration" / "artifact.json").unlink()
        found.append(OF_CALIBRATION[setting]((run, calibrate.run_stage(config, run))))
    exact = {"calibration.corrector": [("ccece", "ccece"), ("isotonic", "isotonic")], "calibration.num_bins": [15, 5]}
    assert found == exact.get(setting, found)
    assert setting == "calibration.num_bins" or found[0] < found[1]


@pytest.mark.parametrize("layer", [None, "classes"])
def test_prototypes_are_made_of_the_layer(
    layer: str | None, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str | None, int]] = []
    embed = FakeSegmenter.embed

    def spy(self: FakeSegmenter, images: list[torch.Tensor], targets: Any, *, layer: str | None = None) -> Any:
        asked.append((layer, len(images)))
        return embed(self, images, targets, layer=layer)

    monkeypatch.setattr(FakeSegmenter, "embed", spy)
    config = replace(
        config,
        smoothing=replace(config.smoothing, layer=layer),
        label=replace(config.label, batch_size=3, shard_size=8),
    )
    prototypes.run_stage(config, RunFolder(str(tmp_path / "run")))
    assert {one for one, _ in asked} == {layer}
    assert [num for _, num in asked[:3]] == [3, 3, 2]


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
    predict = evaluate.PredictShard(config=config_dict(config), model_uris=uris, counter=Silent())
    rows = predict({"shard_id": 0, "rows": list(range(8))}).to_pylist()
    assert [(row["arm"], row["row"]) for row in rows] == [(arm, row) for arm in uris for row in range(8)]
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
    results: list[tuple[list[dict[str, Any]], Any]] = []

    def jackknife(annotations: Any, rows: list[dict[str, Any]], *, frequency_groups: Any) -> Any:
        results.append((rows, frequency_groups))
        return evaluate.JackknifedFigures({}, ())

    monkeypatch.setattr(evaluate, "jackknife_results", jackknife)
    monkeypatch.setattr(evaluate, "_correctors", lambda config, run: {"student": Halving()})
    config = load_config(generated / "config.yaml", CCECE)
    measured, _ = evaluate._evaluate_models(config, whole, RunData(config), verify=False)
    assert list(measured) == ["teacher", "supervised", "student", "student+corrector"]
    raw, corrected = [
        max(row["score"] for row in rows if row["image_id"] == results[2][0][0]["image_id"]) for rows, _ in results[2:]
    ]
    assert corrected < raw
    groups = RunData(config).measured_groups.of_category
    assert all(given == groups for _, given in results)


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


def test_weights_are_fitted_as_they_are_stored(
    generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refit on the stored detections must be the same fit."""
    fitted: list[Detections] = []
    monkeypatch.setattr(
        calibrate, "weigh_by_verification", lambda found, _: replace(found, weights=np.full(len(found), 4 / 3))
    )

    def fit(run: RunFolder, settings: Any, detections: Detections, *rest: Any, **more: Any) -> dict[str, Any]:
        fitted.append(detections)
        return fit_and_commit(run, settings, detections, *rest, **more)

    monkeypatch.setattr(calibrate, "fit_and_commit", fit)
    config = load_config(generated / "config.yaml", CCECE)
    run = prepared_run(config, tmp_path / "run")
    (tmp_path / "run" / "calibration" / "artifact.json").unlink()
    calibrate.run_stage(config, run)
    stored, _ = load_detections(run)
    np.testing.assert_array_equal(fitted[0].weights, stored.weights)
    np.testing.assert_array_equal(fitted[0].raw_scores, stored.raw_scores)


def test_every_image_of_a_shard_keeps_its_own_labels(config: Config, generated: Path, tmp_path: Path) -> None:
    """The second of three images lies outside of the pool, and is refused before the others are predicted."""
    names = sorted(path.name for path in (generated / "pool").iterdir())[:8]
    rows = {}
    for with_refused in (True, False):
        folder = tmp_path / str(with_refused)
        shutil.copytree(generated / "pool", folder)
        lines = [f"{number}0,{name}" for number, name in enumerate(names, start=1)]
        lines += ["15,../x.png"] if with_refused else []
        (folder / "list.csv").write_text("\n".join(["image_id,uri", *lines]))
        data = replace(config.data, pool=str(folder / "list.csv"), pool_truth=None)
        run = prepared_run(replace(config, data=data), tmp_path / f"run-{with_refused}")
        allowed = replace(config.label, max_bad_fraction=0.5, shard_size=16)
        label.run_stage(replace(config, data=data, label=allowed), run)
        rows[with_refused] = {row["image_id"]: row for row in label_rows(run)}
    assert list(rows[True]) == ["10", "15", *[f"{number}0" for number in range(2, 9)]]
    refused = rows[True].pop("15")
    assert refused["status"] != "ok"
    assert refused["instances"] == []
    assert sum(len(row["instances"]) for row in rows[False].values()) > 4
    for image_id, row in rows[False].items():
        assert rows[True][image_id]["status"] == row["status"] == "ok"
        assert rows[True][image_id]["height"] == row["height"] == 64
        assert rows[True][image_id]["instances"] == row["instances"]
