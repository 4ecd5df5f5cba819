"""Drift in a run: counted from shards, written beside them, kept up to date. Also a corrector fitted to the pool."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pool_world import labelled_run
from raylabel.config import Config, SelectionConfig
from raylabel.errors import InputError
from raylabel.files.json_files import read_json
from raylabel.files.tables import commit_table, read_table, read_table_metadata
from raylabel.run import calibration
from raylabel.run.classes import load_classes
from raylabel.run.folder import RunFolder
from raylabel.run.labels.histograms import labelled_pool
from raylabel.run.labels.shards import committed_shards
from raylabel.run.labels.survey import survey_labels
from raylabel.run.stage import finished
from raylabel.schema import DETECTIONS, DRIFT, PROTOTYPES, context_to_arrow
from raylabel.stages import label
from raylabel.stages.label import recalibrate
from raylabel.stages.run import run_one
from stored_labels import all_labelled_images

pytestmark = pytest.mark.usefixtures("without_ray")


def put_detections(run: RunFolder, class_indices: np.ndarray, *, num_images: int, fingerprint: str = "split") -> None:
    """Write made-up detections of a calibration split, one per image, two of three right."""
    num = len(class_indices)
    assert num <= num_images
    rng = np.random.default_rng(0)
    rows = {
        "image_id": [f"image {row}" for row in range(num)],
        "class_index": class_indices.astype(np.int32),
        "raw_score": rng.uniform(0.1, 1, num).astype(np.float32),
        "calibrated_score": np.full(num, np.nan, np.float32),
        "outcome": (rng.random(num) < 2 / 3).astype(np.int8),
        "weight": np.ones(num, np.float32),
        "mask_area": np.full(num, 100, np.int32),
        "context": context_to_arrow(None, num),
    }
    commit_table(run.path("calibration", "detections.parquet"), pa.table(rows, schema=DETECTIONS))
    embeddings = np.eye(6, dtype=np.float32).tolist()
    prototypes = {"class_index": range(6), "num_instances": [5] * 6, "embedding": embeddings}
    commit_table(run.path("prototypes", "prototypes.parquet"), pa.table(prototypes, schema=PROTOTYPES))
    run.commit_artifact(
        "calibration", {"fingerprint": fingerprint, "seconds": 0.0, "settings": {}, "num_split_images": num_images}
    )


def shard_digests(run: RunFolder) -> set[str]:
    return {read_table_metadata(uri)["corrector"] for uri in committed_shards(run).values()}


def test_drift_is_measured_where_the_split_or_the_pool_changed(
    config: Config, prepare: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = prepare(config, tmp_path / "run")
    label.run_stage(config, run)
    of_pool = np.concatenate([image.instances.class_indices for image in all_labelled_images(run, 6)])
    # First five times the pool's images per class, so the same mix. Then a split of class 0 only.
    put_detections(run, np.repeat(of_pool, 5), num_images=5 * max(32, len(of_pool)), fingerprint="same mix")
    artifact = label.run_stage(config, run)
    table = read_table(run.path("labels", "drift.parquet"))
    assert table.schema.equals(DRIFT)
    assert sum(table["num_pool"].to_pylist()) == artifact["num_instances"]
    assert sum(table["num_calibration"].to_pylist()) == 5 * len(of_pool)
    assert artifact["drift"]["calibration"] == "same mix"

    written = Path(run.path("labels", "drift.parquet")).stat().st_mtime_ns
    label.run_stage(config, run)
    assert Path(run.path("labels", "drift.parquet")).stat().st_mtime_ns == written, "nothing has changed"

    put_detections(run, np.zeros(400), num_images=400, fingerprint="class 0 only")
    capsys.readouterr()
    artifact = label.run_stage(config, run)
    names = [one["name"] for one in read_json(run.path("classes.json"))["categories"]]
    assert names[0] in artifact["drift"]["classes"]
    warning = artifact["drift"]["warning"]
    assert f"label: WARNING: {warning}" in capsys.readouterr().out
    assert "6 of 6 classes" in warning
    assert "not in the calibration split" in warning
    assert "and 1 more" in warning
    rows = read_table(run.path("labels", "drift.parquet")).to_pylist()
    assert rows[0]["rate_drifted"]
    assert rows[0]["rate_ratio"] < 0.7


def test_the_pool_is_counted_by_image(config: Config, prepare: Any, tmp_path: Path) -> None:
    run = prepare(config, tmp_path / "run")
    label.run_stage(config, run)
    counts = survey_labels(run, config.selection, load_classes(run)).image_counts
    expected = [image.instances.class_indices for image in all_labelled_images(run, 6)]
    assert counts.num_images == len(expected) == 32
    np.testing.assert_array_equal(
        counts.num_images_with, [sum(index in classes for classes in expected) for index in range(6)]
    )
    squares = [sum((classes == index).sum() ** 2 for classes in expected) for index in range(6)]
    np.testing.assert_array_equal(counts.products.sum(axis=(1, 2)), squares)


def test_marginal_is_fitted_to_the_pool_once_it_is_labelled(config: Config, prepare: Any, tmp_path: Path) -> None:
    config = replace(config, calibration=replace(config.calibration, corrector="marginal"))
    run = prepare(config, tmp_path / "run")
    put_detections(run, np.arange(60) % 6, num_images=60)
    calibration.refit(run, config.calibration, seed=config.seed)
    before = read_json(run.path("calibration", "corrector.json"))
    assert finished(run, "calibrate")["pool"] is None
    artifact = run_one("label", config, run)
    after = read_json(run.path("calibration", "corrector.json"))
    assert after["kind"] == before["kind"] == "marginal"
    assert after["shifts"] != before["shifts"]
    assert finished(run, "calibrate")["pool"] == labelled_pool(run)
    assert shard_digests(run) == {artifact["corrector_digest"]}

    times = {uri: Path(uri).stat().st_mtime_ns for uri in committed_shards(run).values()}
    run_one("label", config, run)
    assert read_json(run.path("calibration", "corrector.json")) == after, "a second run changes nothing"
    assert {uri: Path(uri).stat().st_mtime_ns for uri in committed_shards(run).values()} == times
    recalibrate(run, "temperature")
    assert recalibrate(run, "marginal")["corrector_digest"] == artifact["corrector_digest"]
    assert read_json(run.path("calibration", "corrector.json")) == after
    assert shard_digests(run) == {artifact["corrector_digest"]}


def test_labels_of_another_teacher_are_not_the_pool(config: Config, prepare: Any, tmp_path: Path) -> None:
    config = replace(config, calibration=replace(config.calibration, corrector="marginal"))
    run = prepare(config, tmp_path / "run")
    put_detections(run, np.arange(60) % 6, num_images=60)
    label.run_stage(config, run)
    run.commit_artifact("teacher", {"fingerprint": "another", "seconds": 0.0})
    calibration.refit(run, config.calibration, seed=config.seed)
    assert finished(run, "calibrate")["pool"] is None


def test_runs_of_an_earlier_version_say_what_to_do(config: Config, prepare: Any, tmp_path: Path) -> None:
    run = prepare(config, tmp_path / "run")
    run.commit_artifact("calibration", {"fingerprint": "old", "seconds": 0.0})
    with pytest.raises(InputError, match="made by an earlier version"):
        label.run_stage(config, run)


def test_only_readable_images_of_the_pool_count(tmp_path: Path) -> None:
    """Each of three shards has a quarantined image, and five images are readable. All scores are 1."""
    run = labelled_run(tmp_path, [[[0], [0, 0, 1]], [[], [1]], [[2]]], names=("a", "b", "c"))
    survey = survey_labels(run, SelectionConfig(), load_classes(run))
    counts = survey.image_counts
    assert survey.counts == {"num_images": 8, "num_instances": 6, "num_quarantined": 3}
    assert [table["image_id"].to_pylist() for table in survey.quarantined] == [["bad-0"], ["bad-1"], ["bad-2"]]
    assert counts.num_images == 5
    assert counts.num[:, -1].tolist() == [3, 2, 1]
    assert counts.num_images_with.tolist() == [2, 2, 1]
    assert counts.products[:, -1, -1].tolist() == [1 + 4, 2, 1]
