"""A killed `recalibrate`: the next command makes tables, corrector and labels consistent again."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raylabel.calibration.correctors.file import commit_corrector
from raylabel.config import Config
from raylabel.errors import InputError
from raylabel.files.digests import digest
from raylabel.files.json_files import read_json
from raylabel.files.reading import read_bytes
from raylabel.files.tables import commit_table
from raylabel.run import calibration
from raylabel.run.folder import RunFolder
from raylabel.run.stage import finished, holds
from raylabel.stages import calibrate, label
from raylabel.stages.label import recalibrate
from without_ray import put_stages_here

pytestmark = pytest.mark.usefixtures("without_ray")

TABLES = ("detections", "bins", "bins_cross_validated", "classes")


class Killed(BaseException):
    """An interruption that no code catches."""


@pytest.fixture(scope="module")
def labelled(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, RunFolder]:
    """A labelled run, calibrated by isotonic regression."""
    from prepared import prepared_run
    from raylabel.config import load_config

    config = load_config(
        generated / "config.yaml", {"calibration.corrector": "isotonic", "calibration.iou_threshold": "0.05"}
    )
    run = prepared_run(config, tmp_path_factory.mktemp("labelled"))
    with pytest.MonkeyPatch.context() as patch:
        put_stages_here(patch)
        calibrate.run_stage(config, run)
        label.run_stage(config, run)
    return config, run


@pytest.fixture
def copied(labelled: tuple[Config, RunFolder], tmp_path: Path) -> tuple[Config, RunFolder]:
    """The labelled run, copied so that a test may change it."""
    config, original = labelled
    run = RunFolder(str(tmp_path / "run"))
    shutil.copytree(original.uri, run.uri)
    return config, run


def content(run: RunFolder) -> dict[str, bytes]:
    """Read every file that depends on the corrector, except the artifacts."""
    files = [run.path("calibration", f"{name}.parquet") for name in TABLES]
    files += [run.path("calibration", "corrector.json")]
    files += [str(path) for path in sorted(Path(run.uri, "labels").glob("shard-*.parquet"))]
    return {str(Path(file).relative_to(run.uri)): read_bytes(file) for file in files}


@pytest.mark.parametrize("num_commits", range(6))
def test_killed_after_any_commit_of_the_fit(
    num_commits: int,
    labelled: tuple[Config, RunFolder],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, original = labelled
    shutil.copytree(original.uri, tmp_path / "run")
    run, left = RunFolder(str(tmp_path / "run")), num_commits

    def counted(commit: Any) -> Any:
        def commit_or_die(*args: Any) -> None:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            commit(*args)

        return commit_or_die

    monkeypatch.setattr(calibration, "commit_table", counted(commit_table))
    monkeypatch.setattr(calibration, "commit_corrector", counted(commit_corrector))
    monkeypatch.setattr(RunFolder, "commit_artifact", counted(RunFolder.commit_artifact))
    with pytest.raises(Killed):
        recalibrate(run, "temperature")
    monkeypatch.undo()

    calibrate.run_stage(config, run)
    artifact = label.run_stage(config, run)
    assert content(run) == content(original), "the run of the config goes back to its corrector"
    assert artifact["corrector_digest"] == run.artifact("calibration")["corrector_digest"]
    recalibrate(run, "temperature")
    assert read_json(run.path("calibration", "corrector.json"))["kind"] == "temperature"
    assert run.artifact("labels")["corrector_digest"] == digest(calibration.load_corrector(run).to_json())


def test_the_config_decides_and_says_so(
    labelled: tuple[Config, RunFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, original = labelled
    run = RunFolder(str(tmp_path / "run"))
    shutil.copytree(original.uri, run.uri)
    assert calibration.other_corrector(run, config.calibration) is None
    recalibrate(run, "temperature")
    assert "set calibration.corrector: temperature in the config too" in capsys.readouterr().out
    said = (
        "calibration.corrector is isotonic, but the run has temperature; the config decides. To keep temperature, set "
        "calibration.corrector: temperature."
    )
    assert calibration.other_corrector(run, config.calibration) == said, "check says it before anything is changed"
    calibrate.run_stage(config, run)
    assert f"calibrate: {said}\n" in capsys.readouterr().out
    calibrate.run_stage(config, run)
    assert said not in capsys.readouterr().out
    kept = replace(config, calibration=replace(config.calibration, corrector="temperature"))
    recalibrate(run, "temperature")
    capsys.readouterr()
    calibrate.run_stage(kept, run)
    assert capsys.readouterr().out == "calibrate: finished before, skipped\n"


def test_without_finished_labels_nothing_is_changed(labelled: tuple[Config, RunFolder], tmp_path: Path) -> None:
    _, original = labelled
    run = RunFolder(str(tmp_path / "run"))
    shutil.copytree(original.uri, run.uri)
    Path(run.path("labels", "artifact.json")).unlink()
    before = read_bytes(run.path("calibration", "corrector.json"))
    with pytest.raises(InputError, match="Run label first"):
        recalibrate(run, "temperature")
    assert read_bytes(run.path("calibration", "corrector.json")) == before


def test_a_lost_corrector_is_fitted_again(copied: tuple[Config, RunFolder]) -> None:
    config, run = copied
    lost = Path(run.path("calibration", "corrector.json"))
    before = lost.read_bytes()
    lost.unlink()
    assert not holds(finished(run, "calibrate"), calibrate.later(config, run)), "check says that it is fitted again"
    calibrate.run_stage(config, run)
    assert lost.read_bytes() == before


def test_a_changed_corrector_is_refused_and_fitted_again(copied: tuple[Config, RunFolder]) -> None:
    """LightGBM ends the process with a segmentation fault on trees with a changed digit."""
    config, run = copied
    changed = Path(run.path("calibration", "corrector.json"))
    before = changed.read_bytes()
    content = json.loads(before)
    content["values"][0] += 1e-9
    changed.write_text(json.dumps(content))
    for command in (calibrate.run_stage, label.run_stage):
        with pytest.raises(InputError, match=r"corrector\.json: was changed after calibrate wrote it\. Delete it and"):
            command(config, run)
    changed.unlink()
    calibrate.run_stage(config, run)
    assert changed.read_bytes() == before


def test_a_corrector_of_an_early_version_has_no_digest(copied: tuple[Config, RunFolder]) -> None:
    config, run = copied
    path = Path(run.path("calibration", "corrector.json"))
    stated, corrector = json.loads(path.read_text()), calibration.load_corrector(run)
    path.write_text(json.dumps({name: value for name, value in stated.items() if name != "digest"}))
    assert holds(finished(run, "calibrate"), calibrate.later(config, run))
    assert calibration.load_corrector(run).to_json() == corrector.to_json()
