"""Preflight: one line with both figures and the remedy refuses a misfit before anything is spent."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from false_cluster import node, set_nodes
from raylabel.calibration import Corrector, Detections, FitContext, fit_corrector
from raylabel.config import Config, load_config
from raylabel.dataset.synthetic.generate import generate
from raylabel.errors import InputError
from raylabel.files.json_files import commit_json, read_json
from raylabel.report.console import format_check
from raylabel.run.calibration import load_corrector
from raylabel.run.data import RunData
from raylabel.run.folder import RunFolder
from raylabel.stages import label
from raylabel.stages.check import check_run
from raylabel.stages.preflight import check_cluster, check_teacher_fits, check_writable
from raylabel.stages.run import run_pipeline


def test_only_stages_to_do_are_asked_for(config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    set_nodes(monkeypatch, node(CPU=2.0))
    config = replace(config, teacher=replace(config.teacher, num_workers=8, cpus_per_worker=1.0))
    run = RunFolder(str(tmp_path))
    check_cluster(config, run, ["label", "distill", "report"], num_shards=9)
    many = replace(config, label=replace(config.label, num_workers=30))
    check_cluster(many, run, ["label"], num_shards=1)
    with pytest.raises(InputError, match="teacher: 8 workers"):
        check_cluster(config, run, ["teacher", "label"], num_shards=9)


def test_a_run_folder_that_can_be_written_stays_as_it_is(tmp_path: Path) -> None:
    check_writable(RunFolder(str(tmp_path / "runs" / "new")))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["file/run", "file", "/proc/run"])
def test_a_run_folder_that_cannot_be_written(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    run = RunFolder(str(tmp_path / place))
    with pytest.raises(InputError, match=r"can't be written \(.*\)\. Give an --out") as refused:
        check_writable(run)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(run.uri)


@pytest.fixture
def run(config: Config, prepare: Any, tmp_path: Path) -> RunFolder:
    return prepare(config, tmp_path / "run")


def biased_corrector(num_classes: int) -> Corrector:
    rng = np.random.default_rng(0)
    detections = Detections(
        num_classes=num_classes,
        class_indices=rng.integers(0, num_classes, 200).astype(np.int32),
        raw_scores=rng.random(200),
        image_indices=np.arange(200) // 5,
        outcomes=(rng.random(200) < 0.5).astype(np.int8),
        weights=np.ones(200),
    )
    groups = np.array(["r"] * num_classes)
    return fit_corrector(
        "ccece", detections, context=FitContext(num_bins=5, frequency_groups=groups, similarity=None, seed=0)
    )


def test_teacher_fits(config: Config, run: RunFolder) -> None:
    check_teacher_fits(run, RunData(config), load_corrector(run))
    check_teacher_fits(run, RunData(config), biased_corrector(6))
    with pytest.raises(InputError, match=r"corrector.json: .* fitted on 5 classes, .* have 6\. Run calibrate again"):
        check_teacher_fits(run, RunData(config), biased_corrector(5))
    description = read_json(run.path("teacher", "model.json"))
    commit_json(run.path("teacher", "model.json"), description | {"num_classes": 4})
    with pytest.raises(InputError, match=r"must have the labelled set's 6 classes, got 4\. Run teacher again"):
        check_teacher_fits(run, RunData(config), load_corrector(run))


def renamed(config: Config, folder: Path) -> Config:
    """Rename the first category of the labelled set."""
    content = json.loads(Path(config.data.labelled).read_text())
    content["categories"][0]["name"] = "renamed"
    path = folder / "renamed.json"
    path.write_text(json.dumps(content))
    return replace(config, data=replace(config.data, labelled=str(path)))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_labelled_file_that_changed_is_refused_before_labelling(
    config: Config, run: RunFolder, tmp_path: Path
) -> None:
    changed = renamed(config, tmp_path)
    with pytest.raises(
        InputError,
        match=r"renamed.json: the labelled file has changed: category 4 must be 'red_disc' as in .* got 'renamed'",
    ):
        label.run_stage(changed, run)
    assert not Path(run.path("labels")).exists()


def test_a_labelled_file_that_the_teacher_learnt_from_is_not_read_again(config: Config, run: RunFolder) -> None:
    data = RunData(config)
    run.commit_artifact("teacher", {"fingerprint": "f", "inputs": {"labelled": data.labelled_digest}})
    check_teacher_fits(run, data, load_corrector(run))
    assert "_parts" not in vars(data)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_run_is_refused_before_its_first_stage(config: Config, tmp_path: Path) -> None:
    greedy = replace(config, label=replace(config.label, num_workers=30))
    with pytest.raises(InputError, match=r"label.num_workers: 4 workers x 1 CPUs .* the cluster has 3"):
        run_pipeline(greedy, RunFolder(str(tmp_path / "run")))
    assert sorted(one.name for one in (tmp_path / "run").iterdir()) == ["data", "listing"]


def test_bad_input_is_refused_before_a_cluster_is_asked_for_anything(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPU machines that start when they are asked for cost nothing then."""
    asked: list[str] = []
    monkeypatch.setattr("raylabel.stages.run.connect", lambda: asked.append("connect"))
    monkeypatch.setattr("raylabel.stages.run.check_cluster", lambda *args, **kwargs: asked.append("check_cluster"))
    bad = replace(config, data=replace(config.data, labelled=str(tmp_path / "nowhere.json")))
    with pytest.raises(InputError, match=r"nowhere\.json"):
        run_pipeline(bad, RunFolder(str(tmp_path / "run")))
    assert not asked


def test_check_says_what_it_looked_at_and_what_it_cannot(config: Config, tmp_path: Path) -> None:
    found = check_run(config, RunFolder(str(tmp_path / "new")))
    assert [one.name for one in (tmp_path / "new").iterdir()] == ["data"]
    lines = format_check(found).splitlines()
    assert any(line.startswith("disk         labels take about 509 kB (15.9 kB per image), ") for line in lines)
    assert f"run          {tmp_path / 'new'}, can be written" in lines
    assert any(line.startswith("cluster ") and "because they join the cluster" in line for line in lines)
    with pytest.raises(InputError, match="can't be written"):
        check_run(config, RunFolder("/proc/run"))


def test_check_says_that_the_teacher_is_of_other_classes(config: Config, run: RunFolder) -> None:
    assert check_run(config, run)["teacher"] is None
    classes = read_json(run.path("classes.json"))
    classes["categories"][0]["name"] = "as it was"
    commit_json(run.path("classes.json"), classes)
    found = check_run(config, run)
    assert "the labelled file has changed: category 4 must be 'as it was'" in found["teacher"]
    assert found["teacher"] in format_check(found)


def test_check_warns_of_the_default_model_for_photographs(tmp_path: Path) -> None:
    for size in (256, 258):
        generate(tmp_path / str(size), num_images=24, num_classes=3, image_size=size)
        (tmp_path / str(size) / "config.yaml").write_text(
            "data: {labelled: labelled.json, images: images, calibration: calibration.json, validation: val.json, "
            "pool: pool}\nsmoothing: {warmup_steps: 0}\nteacher: {steps: 20}\n"
        )
    small, large = (load_config(tmp_path / str(size) / "config.yaml") for size in (256, 258))
    run = RunFolder(str(tmp_path / "run"))
    assert check_run(small, run)["remarks"] == []
    found = check_run(large, run)
    [remark] = found["remarks"]
    assert "the median side of the labelled images is 258 pixels" in remark
    [line] = [line for line in format_check(found).splitlines() if line.startswith("WARNING")]
    assert line.endswith(remark)
    other = {"model": "maskrcnn_efficientnet_lite0"}
    chosen = replace(large, teacher=replace(large.teacher, **other), student=replace(large.student, **other))
    assert check_run(chosen, run)["remarks"] == []
