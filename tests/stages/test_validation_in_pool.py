"""Validation images in the pool get no pseudo-labels, unless a setting says so."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
from PIL import Image

from prepared import prepared_run
from raylabel.config import Config
from raylabel.dataset.content import content_digest
from raylabel.errors import InputError
from raylabel.files.json_files import commit_json, read_json
from raylabel.files.tables import commit_table, read_table
from raylabel.report.console import format_status
from raylabel.report.sections import quarantined
from raylabel.run.data import RunData
from raylabel.run.folder import STAGES, RunFolder
from raylabel.run.labels.attempts import ShardAttempt
from raylabel.run.labels.histograms import labelled_pool
from raylabel.run.labels.shards import committed_shards
from raylabel.run.reader import Run
from raylabel.stages import distill, label
from raylabel.stages.check import check_run
from raylabel.stages.states import FINISHED
from raylabel.stages.status import run_status
from stored_labels import label_rows

pytestmark = pytest.mark.usefixtures("without_ray")

COPIES = ("copy-a.jpg", "copy-b.jpg")
"""Pool images with the content of the first two validation images."""


@pytest.fixture
def mixed(config: Config, generated: Path, tmp_path: Path) -> Config:
    """Config of a run whose pool has two validation images besides its own. No image may be bad."""
    pool = tmp_path / "pool"
    shutil.copytree(generated / "pool", pool)
    for copy, image in zip(COPIES, RunData(config).validation.images, strict=False):
        shutil.copy(image.uri, pool / copy)
    data = replace(config.data, pool=str(pool), pool_truth=None)
    label = replace(config.label, max_bad_fraction=0.0)
    return replace(config, data=data, label=label, student=replace(config.student, learn_from_calibration=False))


def with_validation(config: Config, path: Path, keep: Callable[[int], bool]) -> Config:
    """Return the config with some of its validation images, and the file's annotations of them."""
    content = read_json(str(config.data.validation))
    content["images"] = [image for number, image in enumerate(content["images"]) if keep(number)]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in ids]
    commit_json(str(path), content)
    return replace(config, data=replace(config.data, validation=str(path)))


def rows(run: RunFolder) -> dict[str, dict[str, Any]]:
    return {row["image_id"]: row for row in label_rows(run)}


@pytest.fixture
def all_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `check` take every stage for finished, because a prepared run has no true fingerprints."""
    states = {spec.name: FINISHED for spec in STAGES}
    monkeypatch.setattr("raylabel.stages.check.stage_states", lambda *args: (states, {}))


@pytest.mark.usefixtures("all_finished")
def test_validation_images_are_left_out_and_named(
    mixed: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = prepared_run(mixed, tmp_path / "run")
    artifact = label.run_stage(mixed, run)
    names = [image.file_name for image in RunData(mixed).validation.images]
    found = rows(run)
    assert (artifact["num_images"], artifact["num_in_validation"], artifact["num_quarantined"]) == (34, 2, 0)
    assert [found[copy]["status"] for copy in COPIES] == [f"in validation: {name}" for name in names[:2]]
    assert all(found[copy]["instances"] == [] for copy in COPIES)
    assert sum(row["status"] == "ok" for row in found.values()) == 32
    for image_id, row in found.items():
        assert row["content"] == content_digest((tmp_path / "pool" / image_id).read_bytes())
    assert not set(COPIES) & {image for batch in Run(run).pseudo_labels() for image in batch["image_id"].to_pylist()}
    assert read_table(run.path("labels", "errors.parquet")).num_rows == 0
    assert read_table(run.path("labels", "in_validation.parquet"))["image_id"].to_pylist() == list(COPIES)
    assert "label: 2 images are in validation and left out; they are named in " in capsys.readouterr().out
    assert "0 images quarantined, 2 in validation and left out" in format_status(run_status(run))
    shown = quarantined(run)
    assert shown is not None
    assert (shown["num"], shown["num_in_validation"]) == (0, 2)
    assert [row["image_id"] for row in shown["in_validation"]] == list(COPIES)
    assert check_run(mixed, run)["pool"]["in_validation"] == 2


def test_a_setting_keeps_them(mixed: Config, tmp_path: Path) -> None:
    kept = replace(mixed, data=replace(mixed.data, validation_in_pool="keep"))
    run = prepared_run(kept, tmp_path / "run")
    assert label.run_stage(kept, run)["num_in_validation"] == 0
    assert {row["status"] for row in label_rows(run)} == {"ok"}
    before = distill.inputs(kept, run, RunData(kept))
    # The setting acts on stored labels as well, but does not bring back what was left out.
    assert label.run_stage(mixed, run)["num_in_validation"] == 2
    assert distill.inputs(mixed, run, RunData(mixed)) != before
    assert label.run_stage(kept, run)["num_in_validation"] == 2


def test_another_validation_split_acts_on_stored_labels(mixed: Config, tmp_path: Path) -> None:
    """The labels are then those of a run that had the split from the start. No pool image is read for it."""
    other = with_validation(mixed, tmp_path / "other.json", lambda number: number > 0)
    run = prepared_run(other, tmp_path / "run")
    artifact, pool, learnt = label.run_stage(other, run), labelled_pool(run), distill.inputs(other, run, RunData(other))
    assert artifact["num_in_validation"] == 1

    fewer = with_validation(mixed, tmp_path / "fewer.json", lambda number: number > 1)
    assert label.run_stage(fewer, run)["num_in_validation"] == 1, "what was left out stays so"
    assert distill.inputs(fewer, run, RunData(fewer)) == learnt, "no student has to be trained again"

    fresh = prepared_run(mixed, tmp_path / "fresh")
    expected = label.run_stage(mixed, fresh)
    shutil.copytree(tmp_path / "pool", tmp_path / "listed")
    for path in (tmp_path / "pool").iterdir():
        path.write_bytes(b"")
    again = label.run_stage(mixed, run)
    assert label_rows(run) == label_rows(fresh)
    for name in ("num_images", "num_instances", "num_quarantined", "num_in_validation", "selection", "drift"):
        assert again[name] == expected[name]
    for name in ("histogram.parquet", "in_validation.parquet"):
        assert read_table(run.path("labels", name)).equals(read_table(fresh.path("labels", name)))
    assert labelled_pool(run) != pool
    assert distill.inputs(mixed, run, RunData(mixed)) != learnt
    assert run_status(run)["labels"]["num_in_validation"] == 2


def test_an_interrupted_comparison_starts_again(mixed: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = with_validation(mixed, tmp_path / "other.json", lambda number: number > 1)
    run = prepared_run(other, tmp_path / "run")
    label.run_stage(other, run)
    with monkeypatch.context() as patch:
        patch.setattr("raylabel.run.labels.in_validation._leave_out", lambda *args, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            label.run_stage(mixed, run)
    assert label.run_stage(mixed, run)["num_in_validation"] == 2


def test_one_by_one_they_are_left_out_as_well(mixed: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers take the images one by one after other workers have died."""
    together, careful = prepared_run(mixed, tmp_path / "together"), prepared_run(mixed, tmp_path / "careful")
    label.run_stage(mixed, together)
    monkeypatch.setattr(ShardAttempt, "is_careful", True)
    label.run_stage(mixed, careful)
    without_instances = [
        [{name: row[name] for name in ("image_id", "status", "content")} for row in label_rows(run)]
        for run in (together, careful)
    ]
    assert without_instances[0] == without_instances[1]


def test_a_validation_image_that_cannot_be_read_is_named(mixed: Config, generated: Path, tmp_path: Path) -> None:
    content = json.loads((generated / "val.json").read_text())
    content["images"][0]["file_name"] = "gone.jpg"
    commit_json(str(tmp_path / "gone.json"), content)
    config = replace(mixed, data=replace(mixed.data, validation=str(tmp_path / "gone.json")))
    with pytest.raises(InputError, match=r"data\.validation: .*gone\.jpg: missing"):
        label.run_stage(config, prepared_run(mixed, tmp_path / "run"))


def test_the_same_picture_in_another_file_is_another_image(mixed: Config, tmp_path: Path) -> None:
    with Image.open(tmp_path / "pool" / COPIES[0]) as image:
        image.save(tmp_path / "pool" / COPIES[0], "PNG")
    assert label.run_stage(mixed, prepared_run(mixed, tmp_path / "run"))["num_in_validation"] == 1


@pytest.fixture
def earlier(mixed: Config, tmp_path: Path) -> Iterator[RunFolder]:
    """Labels as the version before made them. Its shards do not have the contents of their images."""
    kept = replace(mixed, data=replace(mixed.data, validation_in_pool="keep"))
    run = prepared_run(mixed, tmp_path / "run")
    artifact = label.run_stage(kept, run)
    for name in ("num_in_validation", "in_validation_digest", "num_not_compared"):
        del artifact[name]
    run.commit_artifact("labels", artifact)
    for uri in committed_shards(run).values():
        table = read_table(uri)
        metadata = {key: value for key, value in table.schema.metadata.items() if key != b"num_in_validation"}
        commit_table(uri, table.drop_columns(["content"]).replace_schema_metadata(metadata))
    for name in ("validation.parquet", "in_validation.parquet", "shards.parquet"):
        Path(run.path("labels", name)).unlink()
    return run


@pytest.mark.usefixtures("all_finished")
def test_labels_of_an_earlier_version_stay_finished_and_check_says_so(
    mixed: Config, earlier: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    before = label_rows(earlier)
    capsys.readouterr()
    label.run_stage(mixed, earlier)
    assert "label: finished before, skipped\n" in capsys.readouterr().out
    assert label_rows(earlier) == before
    shared = "validation and pool share 2 images, such as "
    [remark] = [one for one in check_run(mixed, earlier)["remarks"] if one.startswith(shared)]
    assert remark.endswith("The labels were made by an earlier version, and label does not leave them out.")


def test_labels_of_an_earlier_version_grow(
    mixed: Config, earlier: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(tmp_path / "pool" / COPIES[0], tmp_path / "pool" / "new.jpg")
    artifact = label.run_stage(mixed, earlier)
    assert (artifact["num_images"], artifact["num_in_validation"], artifact["num_not_compared"]) == (35, 1, 34)
    assert "34 images were labelled by an earlier version and not compared" in capsys.readouterr().out
    batches = list(Run(earlier).labels())
    assert len({tuple(batch.schema.names) for batch in batches}) == 1
    assert sum(pc.is_null(batch["content"]).to_pylist().count(True) for batch in batches) == 34
    assert sum(batch.num_rows for batch in Run(earlier).pseudo_labels()) > 0


@pytest.mark.usefixtures("all_finished")
def test_check_looks_at_the_pool_where_finished_labels_do_not_tell(mixed: Config, tmp_path: Path) -> None:
    kept = replace(mixed, data=replace(mixed.data, validation_in_pool="keep"))
    run = prepared_run(kept, tmp_path / "run")
    label.run_stage(kept, run)
    [remark] = [one for one in check_run(kept, run)["remarks"] if one.startswith("validation and pool share 2 images")]
    assert "keep labels them" in remark
    other = with_validation(mixed, tmp_path / "other.json", lambda number: number == 0)
    label.run_stage(mixed, run)
    assert check_run(mixed, run)["pool"]["in_validation"] == 2
    found = check_run(other, run)
    assert "in_validation" not in found["pool"], "the count is of another split"
    assert [one["num_images"] for one in found["overlaps"] if one["sets"] == ["validation", "pool"]] == [1]


def test_keep_that_comes_too_late_is_said(mixed: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = prepared_run(mixed, tmp_path / "run")
    label.run_stage(mixed, run)
    assert "WARNING: data.validation_in_pool" not in capsys.readouterr().out
    label.run_stage(replace(mixed, data=replace(mixed.data, validation_in_pool="keep")), run)
    assert f"keep came after them; move {run.path('labels')} away to label them" in capsys.readouterr().out
