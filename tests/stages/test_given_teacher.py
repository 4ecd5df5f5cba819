"""A given, untrained teacher: `teacher.steps` 0 works in the whole pipeline."""

from pathlib import Path

import pytest

from onnx_graphs import export_toy, name_classes
from raylabel.config import load_config
from raylabel.errors import InputError
from raylabel.files.json_files import read_json
from raylabel.models.build import build_segmenter
from raylabel.models.saved import save_segmenter
from raylabel.run.folder import RunFolder
from raylabel.run.prototypes import load_similarity
from raylabel.stages.check import check_run
from raylabel.stages.run import run_one, run_pipeline

GIVEN = {"teacher.steps": "0", "student.init": "weights"}


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extra onnx")
    path = tmp_path / "teacher.onnx"
    export_toy(path, 6)
    return path


@pytest.mark.slow
@pytest.mark.usefixtures("without_ray")
def test_a_graph_labels_and_a_student_learns_from_it(generated: Path, graph: Path, tmp_path: Path) -> None:
    """The student has the paper's architecture, its teacher another one."""
    pytest.importorskip("transformers", reason="needs the extra transformers")
    onnx = {"teacher.model": "onnx", "teacher.weights": str(graph)}
    student = {"student.model": "mask2former_tiny", "student.supervised_baseline": "false"}
    overrides = {**GIVEN, **onnx, **student}
    config, run = load_config(generated / "config.yaml", overrides), RunFolder(str(tmp_path / "run"))
    artifacts = run_pipeline(config, run)
    assert artifacts["prototypes"]["num_instances"] == 0
    assert load_similarity(run).tolist() == [[float(row == column) for column in range(6)] for row in range(6)]
    assert artifacts["teacher"]["steps"] == 0
    assert read_json(run.path("teacher", "model.json"))["model"] == "onnx"
    assert artifacts["label"]["num_instances"] > 0
    assert read_json(run.path("student", "model.json"))["model"] == "mask2former_tiny"
    assert set(read_json(run.path("evaluation", "metrics.json"))["validation"]) >= {"teacher", "student"}
    assert run_pipeline(config, run) == artifacts


@pytest.mark.usefixtures("without_ray")
def test_the_folder_of_a_saved_model_is_a_teacher(generated: Path, tmp_path: Path) -> None:
    segmenter = build_segmenter("fakes:FakeSegmenter", num_classes=6)
    save_segmenter(segmenter, str(tmp_path / "saved"), {"model": "fakes:FakeSegmenter"})
    config = load_config(generated / "config.yaml", {**GIVEN, "teacher.weights": str(tmp_path / "saved")})
    run = RunFolder(str(tmp_path / "run"))
    for stage in ("prototypes", "teacher"):
        artifact = run_one(stage, config, run)
    assert artifact["steps"] == 0
    assert (tmp_path / "run/teacher/model.safetensors").read_bytes() == (
        tmp_path / "saved/model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"teacher.steps": "0"}, "teacher.steps: 0 needs teacher.weights"),
        (
            {**GIVEN, "teacher.weights": "x", "calibration.folds": "3"},
            "calibration.folds must be 0 where teacher.steps",
        ),
    ],
)
def test_settings_that_contradict_a_given_teacher_are_refused(
    generated: Path, overrides: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_config(generated / "config.yaml", overrides)


def test_what_only_predicts_is_neither_trained_nor_a_student(generated: Path, graph: Path, tmp_path: Path) -> None:
    run, onnx = RunFolder(str(tmp_path / "run")), {"teacher.model": "onnx", "teacher.weights": str(graph)}
    with pytest.raises(InputError, match=r"teacher.model: onnx only predicts\. Set teacher.steps: 0"):
        check_run(load_config(generated / "config.yaml", {**onnx, "student.init": "weights"}), run)
    as_student = {**onnx, **GIVEN, "student.model": "onnx", "student.weights": str(graph)}
    with pytest.raises(InputError, match=r"student.model: onnx only predicts"):
        check_run(load_config(generated / "config.yaml", as_student), run)
    name_classes(graph, [f"class {number}" for number in range(6)])
    with pytest.raises(InputError, match=r"its classes must be those of .*, got 'class 0' in place of '.*'"):
        check_run(load_config(generated / "config.yaml", {**onnx, **GIVEN}), run)
