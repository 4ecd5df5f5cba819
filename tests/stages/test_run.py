"""The whole pipeline on Ray: every stage writes the files of its contract, and nothing is done twice."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raylabel.config import Config
from raylabel.errors import NoDetectionError
from raylabel.files.digests import digest
from raylabel.files.json_files import read_json
from raylabel.files.tables import read_table
from raylabel.models.saved import load_segmenter
from raylabel.report.console import format_status
from raylabel.run.calibration import load_corrector, load_detections
from raylabel.run.data import RunData
from raylabel.run.folder import STAGES, RunFolder, load_run_config, stage_spec
from raylabel.run.labels.shards import committed_shards
from raylabel.run.rounds import baseline_calibration, student_calibration, student_correctors
from raylabel.run.stage import finished
from raylabel.schema import BINS, CLASSES, DETECTIONS, DRIFT, PROTOTYPES
from raylabel.stages import calibrate, distill
from raylabel.stages.check import check_run
from raylabel.stages.label import recalibrate
from raylabel.stages.run import run_one, run_pipeline
from raylabel.stages.states import AGAIN, FINISHED, LATER, NEW
from raylabel.stages.status import run_status

pytestmark = pytest.mark.ray  # because the finished run is made on Ray


REFIT, RESELECT = (LATER.format(about=stage_spec(name).later_about) for name in ("calibrate", "label"))


def modified(run: RunFolder, pattern: str) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(Path(run.uri).glob(pattern))}


Finished = tuple[Config, RunFolder, dict[str, Any]]


@pytest.fixture(scope="module")
def changed_run(finished_run: Finished, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A copy of the finished run. The tests below change it one after the other."""
    config, run, artifacts = finished_run
    copied = tmp_path_factory.mktemp("changed") / "run"
    shutil.copytree(run.uri, copied)
    return config, RunFolder(str(copied)), artifacts


def test_every_stage_leaves_its_files(finished_run: Finished) -> None:
    config, run, artifacts = finished_run
    assert tuple(artifacts) == tuple(spec.name for spec in STAGES)
    assert load_run_config(run) == config
    tables = {
        "prototypes/prototypes.parquet": PROTOTYPES,
        "calibration/detections.parquet": DETECTIONS,
        "calibration/bins.parquet": BINS,
        "calibration/classes.parquet": CLASSES,
        "labels/drift.parquet": DRIFT,
    }
    for name, schema in tables.items():
        assert read_table(run.path(name)).schema.equals(schema), name
    for folder in ("prototypes/embedder", "teacher", "student", "student/supervised"):
        _, description = load_segmenter(run.path(folder), config.own_classes)
        assert description["num_classes"] == 6
        assert Path(run.path(folder, "metrics.jsonl")).read_text()
        assert not Path(run.path(folder, "checkpoints")).exists()
    metrics = read_json(run.path("evaluation", "metrics.json"))
    corrected = {"student+corrector", "supervised+corrector"}
    assert set(metrics["validation"]) == {"teacher", "student", "supervised"} | corrected
    assert metrics["validation_differences"]["from"] == "supervised"
    assert set(metrics["validation_differences"]["models"]) == {"teacher", "student"} | corrected
    assert set(metrics["validation_half_widths"]) == set(metrics["validation"])
    assert all(half_width >= 0 for one in metrics["validation_half_widths"].values() for half_width in one.values())
    assert metrics["pool"]["num_images"] == 32
    assert "<html" in Path(run.path("report", "index.html")).read_text()


def test_the_student_is_corrected_by_its_own_corrector(finished_run: Finished) -> None:
    config, run, artifacts = finished_run
    calibrated = student_calibration(run)
    assert student_correctors(config, run) == {1: calibrated}
    assert finished(calibrated, "teacher")["inputs"]["student"] == artifacts["distill"]["fingerprint"]
    student, adopted = (Path(one, "model.safetensors") for one in (run.path("student"), calibrated.path("teacher")))
    assert adopted.read_bytes() == student.read_bytes()
    digests = artifacts["evaluate"]["inputs"]["correctors"]
    of_baseline = load_corrector(baseline_calibration(run)).to_json()
    assert digests == {"student": digest(load_corrector(calibrated).to_json()), "supervised": digest(of_baseline)}
    assert "student-calibration/calibration" in Path(run.path("report", "index.html")).read_text()


def test_models_that_have_seen_the_split_take_over_the_teachers_detections(finished_run: Finished) -> None:
    config, run, artifacts = finished_run
    assert config.student_has_seen_all
    before, image_ids = load_detections(run)
    for calibrated in (student_calibration(run), baseline_calibration(run)):
        after, same_ids = load_detections(calibrated)
        assert same_ids == image_ids
        np.testing.assert_array_equal(np.sort(after.class_indices), np.sort(before.class_indices))
        assert (after.known_outcomes == 1).sum() == (before.known_outcomes == 1).sum()
        artifact = finished(calibrated, "calibrate")
        assert artifact["num_split_images"] == len(RunData(config).calibration)
        assert artifact["inputs"]["carried_over"] == artifacts["calibrate"]["fingerprint"]


def test_every_model_says_what_it_has_learnt_from(finished_run: Finished) -> None:
    config, run, artifacts = finished_run
    data = RunData(config)
    known = artifacts["evaluate"]["metrics"]["learnt_from"]
    all_annotated = {"labelled": len(data.labelled), "calibration": len(data.calibration)}
    both = config.teacher.steps + config.student.steps
    assert known == {
        "teacher": {"labelled": len(data.labelled), "calibration": 0, "pool": 0, "steps": config.teacher.steps},
        "supervised": {**all_annotated, "pool": 0, "steps": both},
        "student": {**all_annotated, "pool": 32, "steps": both},
    }
    page = Path(run.path("report", "index.html")).read_text()
    assert f"{len(data.labelled)} labelled + {len(data.calibration)} calibration + 32 pool images, {both} steps" in page


def test_check_says_in_one_line_how_the_labels_are_used(finished_run: Finished) -> None:
    config, run, _ = finished_run
    num_labelled, num_kept = (len(one) for one in (RunData(config).labelled, RunData(config).calibration))
    number = num_labelled + num_kept
    expected = f"{number} labelled images: the teacher learns from {num_labelled}, {num_kept} calibrate, the student"
    assert check_run(config, run)["use_of_labels"] == f"{expected} learns from all"
    unseen = replace(config, student=replace(config.student, learn_from_calibration=False))
    assert check_run(unseen, run)["use_of_labels"] == f"{expected} learns from the teacher's {num_labelled}"


@pytest.mark.usefixtures("without_ray")
def test_a_student_without_detections_is_evaluated_as_it_is(
    finished_run: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run, _ = finished_run
    copied = RunFolder(str(tmp_path / "run"))
    shutil.copytree(run.uri, copied.uri)
    for calibrated in (student_calibration(copied), baseline_calibration(copied)):
        shutil.rmtree(calibrated.path("calibration"))

    def nothing(config: Config, run: RunFolder) -> dict[str, Any]:
        raise NoDetectionError("calibrate: nothing found")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrate, "run_stage", nothing)
        metrics = run_one("evaluate", config, copied)["metrics"]
    assert "student made no detection" in capsys.readouterr().out
    assert set(metrics["validation"]) == {"teacher", "student", "supervised"}


@pytest.mark.usefixtures("without_ray")
def test_verifying_a_finished_run_evaluates_it_again_and_writes_its_page(
    finished_run: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run, artifacts = finished_run
    copied = RunFolder(str(tmp_path / "run"))
    shutil.copytree(run.uri, copied.uri)
    assert "These figures are not verified." in Path(copied.path("report", "index.html")).read_text()
    again = run_pipeline(config, copied, verify=True)
    assert "evaluate: finished before, but not verified; predicting again to verify" in capsys.readouterr().out
    assert {stage for stage in artifacts if again[stage] != artifacts[stage]} == {"evaluate", "report"}
    assert again["evaluate"]["fingerprint"] == artifacts["evaluate"]["fingerprint"]
    found = again["evaluate"]["metrics"].pop("verification")
    assert found["agrees"]
    assert found["num_figures"] == 5 * (13 if found["evaluator"] == "lvis-api" else 12)
    assert artifacts["evaluate"]["metrics"] == again["evaluate"]["metrics"] | {"verification": None}
    assert f"verified with {found['evaluator']}" in Path(copied.path("report", "index.html")).read_text()
    assert set(check_run(config, copied)["stages"].values()) == {FINISHED}


def test_bins_are_those_of_the_detections(finished_run: Finished) -> None:
    _, run, artifacts = finished_run
    detections, image_ids = load_detections(run)
    bins = read_table(run.path("calibration", "bins.parquet"))
    assert sum(bins["num"].to_pylist()) == pytest.approx(detections.scored().weights.sum(), rel=1e-6)
    assert 0 < len(image_ids) <= 10
    artifact = artifacts["calibrate"]
    assert sum(artifact[f"num_{outcome}"] for outcome in ("correct", "incorrect", "ignored")) == len(detections)


def test_a_second_run_does_nothing_again(finished_run: Finished) -> None:
    config, run, artifacts = finished_run
    before = modified(run, "**/*.parquet") | modified(run, "**/*.safetensors")
    again = run_pipeline(config, run)
    assert modified(run, "**/*.parquet") | modified(run, "**/*.safetensors") == before
    assert {name: one["fingerprint"] for name, one in again.items()} == {
        name: one["fingerprint"] for name, one in artifacts.items()
    }


def test_check_says_what_would_be_done_again(finished_run: Finished) -> None:
    config, run, _ = finished_run
    before = modified(run, "**/*")
    assert set(check_run(config, run)["stages"].values()) == {FINISHED}

    def changed(**settings: Any) -> dict[str, str]:
        other = replace(config, **{name: replace(getattr(config, name), **one) for name, one in settings.items()})
        return {stage: state for stage, state in check_run(other, run)["stages"].items() if state != FINISHED}

    of_student = dict.fromkeys(("distill", "evaluate", "report"), AGAIN)
    assert changed(student={"steps": 3}) == of_student
    assert changed(label={"num_workers": 2}) == {}
    assert changed(label={"top_k": 3}) == {"label": AGAIN, **of_student}
    assert changed(selection={"min_score": 0.2}) == {"label": RESELECT, **of_student}
    kind = "ccece" if config.calibration.corrector != "ccece" else "none"
    assert changed(calibration={"corrector": kind}) == {"calibrate": REFIT, "label": RESELECT, **of_student}
    assert changed(calibration={"iou_threshold": 0.4}) == {"calibrate": AGAIN, "label": RESELECT, **of_student}
    assert changed(smoothing={"tau": 0.5}) == {**dict.fromkeys(("teacher", "calibrate", "label"), AGAIN), **of_student}
    again = check_run(replace(config, label=replace(config.label, top_k=3)), run)
    assert "labels take about" in again["disk"], "the old labels stay beside the new ones"
    assert modified(run, "**/*") == before, "check leaves no file"


def test_check_of_a_run_that_was_killed_before_the_selection(finished_run: Finished, tmp_path: Path) -> None:
    config, run, _ = finished_run
    copied = RunFolder(str(tmp_path / "run"))
    shutil.copytree(run.uri, copied.uri)
    labels = finished(copied, "label")
    copied.commit_artifact("labels", {name: labels[name] for name in labels if not name.startswith("selection")})
    states = check_run(config, copied)["stages"]
    assert (states["calibrate"], states["label"], states["distill"]) == (FINISHED, RESELECT, AGAIN)


def test_status_reads_the_folder(finished_run: Finished) -> None:
    _, run, _ = finished_run
    status = run_status(run)
    assert {one["state"] for one in status["stages"]} == {"finished"}
    assert (status["labels"]["shards_done"], status["labels"]["shards_total"]) == (4, 4)
    assert status["labels"]["images_done"] == status["labels"]["images_total"] == 32
    assert "4/4 shards, 32/32 images" in format_status(status)


def test_recalibrate_keeps_teacher_and_raw_labels(changed_run: Finished) -> None:
    _, run, artifacts = changed_run
    kind = "temperature" if artifacts["calibrate"]["corrector_chosen"] == "none" else "none"
    models = modified(run, "**/*.safetensors")
    before = read_table(run.path("labels", "shard-00000000.parquet")).to_pylist()
    artifact = recalibrate(run, kind)
    after = read_table(run.path("labels", "shard-00000000.parquet")).to_pylist()
    assert modified(run, "**/*.safetensors") == models
    assert artifact["corrector"] == kind
    assert read_json(run.path("calibration", "corrector.json"))["kind"] == kind
    assert load_run_config(run).calibration.corrector == kind
    changed = 0
    for old, new in zip(before, after, strict=True):
        for old_one, new_one in zip(old["instances"], new["instances"], strict=True):
            changed += old_one.pop("calibrated_score") != new_one.pop("calibrated_score")
            assert old_one == new_one
    assert changed


def run_until_round_2_is_distilled(config: Config, run: RunFolder) -> None:
    """Run the pipeline, and interrupt it when round 2 begins to distil."""
    distil = distill.run_stage

    def interrupted(config: Config, of_round: RunFolder) -> dict[str, Any]:
        if of_round.uri.endswith("round-2"):
            raise KeyboardInterrupt
        return distil(config, of_round)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distill, "run_stage", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_pipeline(config, run)


@pytest.mark.usefixtures("without_ray")
def test_the_student_of_a_round_teaches_the_next(changed_run: Finished) -> None:
    config, run, artifacts = changed_run
    twice = replace(config, student=replace(config.student, rounds=2))
    assert check_run(twice, run)["rounds"] == {"2": dict.fromkeys(("calibrate", "label", "distill"), "would run")}
    models = modified(run, "*/*.safetensors")
    second = RunFolder(run.path("round-2"))
    run_until_round_2_is_distilled(twice, run)
    states = {one["stage"]: one["state"] for one in run_status(run)["rounds"]["2"]["stages"]}
    assert (states["label"], states["distill"]) == ("finished", "not started")
    found = check_run(twice, run)
    assert found["rounds"] == {"2": {"calibrate": FINISHED, "label": FINISHED, "distill": NEW}}
    assert (found["stages"]["distill"], found["stages"]["evaluate"]) == (FINISHED, AGAIN)
    labelled = modified(second, "labels/shard-*.parquet")
    again = run_pipeline(twice, run)
    assert modified(run, "*/*.safetensors") == models, "the first round is unchanged"
    assert modified(second, "labels/shard-*.parquet") == labelled, "the interrupted round resumes"
    assert again["distill"]["fingerprint"] == artifacts["distill"]["fingerprint"]
    teacher = second.artifact("teacher")
    assert teacher is not None
    assert teacher["inputs"]["student"] == artifacts["distill"]["fingerprint"]
    student, adopted = (Path(run.path(*parts, "model.safetensors")) for parts in (["student"], ["round-2", "teacher"]))
    assert adopted.read_bytes() == student.read_bytes()
    for stage in ("calibrate", "label", "distill"):
        assert finished(second, stage)["fingerprint"] != artifacts[stage]["fingerprint"]
    assert len(committed_shards(second)) == 4
    assert not Path(second.path("student", "supervised")).exists()
    assert student_correctors(twice, run) == {1: second, 2: student_calibration(run)}
    assert (
        finished(student_calibration(run), "teacher")["inputs"]["student"] == finished(second, "distill")["fingerprint"]
    )
    metrics = again["evaluate"]["metrics"]
    assert {"student-2", "student-2+corrector"} <= set(metrics["validation"])
    assert metrics["pool_of_rounds"]["2"]["num_images"] == 32
    page = Path(run.path("report", "index.html")).read_text()
    assert "round 2: distilled from pseudo-labels of round 1" in page
    assert "round-2/labels" in page
    status = run_status(run)
    states = {one["stage"]: one["state"] for one in status["rounds"]["2"]["stages"]}
    assert {states[stage] for stage in ("teacher", "calibrate", "label", "distill")} == {"finished"}
    assert f"round 2: {second.uri}" in format_status(status)
    before = modified(run, "round-2/**/*.parquet") | modified(run, "round-2/**/*.safetensors")
    found = check_run(twice, run)
    assert {state for one in (found["stages"], *found["rounds"].values()) for state in one.values()} == {FINISHED}
    longer = check_run(replace(twice, student=replace(twice.student, steps=3)), run)
    assert set(longer["rounds"]["2"].values()) == {AGAIN}
    run_pipeline(twice, run)
    assert modified(run, "round-2/**/*.parquet") | modified(run, "round-2/**/*.safetensors") == before


@pytest.mark.usefixtures("without_ray")
def test_folds_predict_every_labelled_image_once(changed_run: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    config, run, _ = changed_run
    folded = replace(
        config, calibration=replace(config.calibration, folds=2), label=replace(config.label, shard_size=4)
    )
    calibrate.run_stage(folded, run)
    _, image_ids = load_detections(run)
    labelled = {str(image.image_id) for image in RunData(folded).labelled.images}
    assert set(image_ids) <= labelled
    assert len(image_ids) > len(labelled) / 2
    assert "moved to" in capsys.readouterr().out
