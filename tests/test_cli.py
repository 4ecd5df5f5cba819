"""The command line: exit codes, and one clear line for every mistake."""

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest

from raylabel.cli import _load, main
from raylabel.run.folder import STAGES


def failing(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Run a command that must end with exit code 2, and return its one line."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert line.startswith("raylabel: ")
    return line


@pytest.fixture
def config_file(tmp_path: Path) -> str:
    path = tmp_path / "config.yaml"
    path.write_text("data: {labelled: a.json, images: im, calibration: c.json, validation: v.json, pool: p}\n")
    return str(path)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    listed = {line.split()[0] for line in text.splitlines() if line.startswith("    ") and line.strip()}
    assert listed >= {
        *(spec.name for spec in STAGES),
        "demo",
        "generate",
        "init",
        "check",
        "run",
        "correct",
        "recalibrate",
        "export",
        "predict",
        "status",
    }


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["run"], "the following arguments are required: config"),
        (["run", "absent.yaml"], "absent.yaml: no such config file"),
        (["status", "absent"], "absent: not a run folder"),
        (["status", "absent", "--frob"], "status: unknown argument --frob"),
        (["export", "absent", "--format", "coco", "--out", "x"], "absent: not a run folder"),
        (["export", "absent", "--format", "pascal", "--out", "x"], "invalid choice: 'pascal'"),
        (["recalibrate", "absent", "--corrector", "isotonic"], "absent: not a run folder"),
        (["recalibrate", "absent", "--corrector", "magic"], "--corrector must be one of none, ccece"),
        (["calibrate"], "needs a config, or --predictions"),
        (["calibrate", "--predictions", "p.json", "--out", "x"], "missing --annotations"),
        (["correct", "--corrector", "c.json", "--predictions", "p.json", "--out", "x"], "c.json: no such file"),
        (["init", "absent.json", "images", "pool"], "labelled: absent.json: there is no such file"),
        (["generate", "--out", "x", "--images", "many"], "invalid int value: 'many'"),
        (["generate", "--out", "x", "--classes", "0"], "number of classes must be from 2 to 96, got 0"),
        (["demo", "--seed", "-1"], "--seed must be >= 0"),
    ],
)
def test_mistakes(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in failing(capsys, *argv)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--teacher.stepz", "3"], "unknown key teacher.stepz. Did you mean teacher.steps?"),
        (["--teacher.steps"], "--teacher.steps: needs a value"),
        (["--teacher.steps=none"], "teacher.steps:"),
        (["loose"], "loose: expected --key VALUE"),
        ([], "a.json: no such file"),
    ],
)
def test_mistakes_in_settings(
    extra: list[str], message: str, config_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in failing(capsys, "check", config_file, *extra)


def test_results_of_any_detector_print_one_json_object(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, shared_data: Callable[[str], Path]
) -> None:
    folder = shared_data("external_detector")
    argv = ["calibrate", "--predictions", str(folder / "results.json"), "--annotations", str(folder / "instances.json")]
    assert main([*argv, "--out", str(tmp_path), "--corrector", "hierarchical", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["num_correct"], summary["num_incorrect"], summary["num_ignored"]) == (1782, 10294, 488)
    assert summary["calibrated_cross_validated"]["nll"] < summary["raw"]["nll"]
    for name in ("bins.parquet", "classes.parquet", "corrector.json", "reliability.png"):
        assert (tmp_path / name).stat().st_size > 0
    corrected = str(tmp_path / "corrected.json")
    argv = ["correct", "--corrector", str(tmp_path / "corrector.json"), "--predictions", str(folder / "results.json")]
    assert main([*argv, "--out", corrected]) == 0
    before, after = json.loads((folder / "results.json").read_text()), json.loads(Path(corrected).read_text())
    assert [one["score"] for one in before] == [one["raw_score"] for one in after]
    assert all(0 <= one["score"] <= 1 for one in after)


def test_the_command_line_may_name_another_folder(generated: Path, tmp_path: Path) -> None:
    """Otherwise the config's `out` is the run."""
    for out, expected in ((None, tmp_path / "runs"), (str(tmp_path / "other"), tmp_path / "other")):
        arguments = Namespace(config=str(generated / "config.yaml"), out=out)
        config, run = _load(arguments, {"out": str(tmp_path / "runs"), "seed": "9"})
        assert run.uri == str(expected)
        assert config.seed == 9


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["status", "RUN", "--watch", "inf"], "--watch must be > 0 and at most 86400 seconds, got inf"),
        (["status", "RUN", "--watch", "1e300"], "--watch must be > 0 and at most 86400 seconds, got 1e+300"),
        (["status", "RUN", "--watch", "nan"], "--watch must be > 0 and at most 86400 seconds, got nan"),
        (["check", "c.yaml", "--time", "--price-per-hour", "nan"], "--price-per-hour must be >= 0 and finite, got nan"),
        (["check", "c.yaml", "--time", "--price-per-hour", "-1"], "--price-per-hour must be >= 0 and finite, got -1"),
    ],
)
def test_numbers_out_of_range_are_one_line(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert capsys.readouterr().err == f"raylabel: {message}\n"
