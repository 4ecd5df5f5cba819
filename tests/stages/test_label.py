"""Labelling on Ray: every pool image once, bad images quarantined, finished shards untouched."""

import io
import re
import shutil
import socket
import time
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prepared import prepared_run
from raylabel.calibration import Detections, FitContext, fit_corrector
from raylabel.config import Config, load_config
from raylabel.errors import InputError
from raylabel.files.json_files import commit_json
from raylabel.files.reading import read_bytes
from raylabel.files.tables import read_table, read_table_metadata
from raylabel.run.folder import RunFolder, commit_config
from raylabel.run.labels.histograms import histogram_from_json
from raylabel.run.labels.shards import committed_shards
from raylabel.schema import LABELS
from raylabel.stages import label
from raylabel.stages.status import run_status
from stored_labels import label_rows


def rows(run: RunFolder) -> list[dict[str, Any]]:
    return label_rows(run)


def times(run: RunFolder) -> dict[int, int]:
    return {shard_id: Path(uri).stat().st_mtime_ns for shard_id, uri in committed_shards(run).items()}


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A pool that Ray labelled, with the driver's standard error."""

    run: RunFolder
    artifact: dict[str, Any]
    printed: str


@pytest.fixture(scope="module")
def labelled(generated: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Labelled:
    config, stream = load_config(generated / "config.yaml"), io.StringIO()
    run = prepared_run(config, tmp_path_factory.mktemp("labelled"))
    with redirect_stderr(stream):
        artifact = label.run_stage(config, run)
    return Labelled(run=run, artifact=artifact, printed=stream.getvalue())


@pytest.mark.ray
def test_labels_follow_the_contract(config: Config, labelled: Labelled, generated: Path) -> None:
    run, artifact = labelled.run, labelled.artifact
    found = rows(run)
    assert [row["image_id"] for row in found] == sorted(path.name for path in (generated / "pool").iterdir())
    assert artifact["num_images"] == len(found) == 32
    assert artifact["num_shards"] == len(committed_shards(run)) == 4
    assert artifact["num_instances"] == sum(len(row["instances"]) for row in found) > 0
    for uri in committed_shards(run).values():
        table, metadata = read_table(uri), read_table_metadata(uri)
        assert table.schema.equals(LABELS)
        in_shard = [one for instances in table["instances"].to_pylist() for one in instances]
        assert int(metadata["num_images"]) == table.num_rows
        assert int(metadata["num_instances"]) == len(in_shard)
        histogram = histogram_from_json(metadata["histogram"])
        assert sum(histogram["num"].to_pylist()) == len(in_shard)
        assert sum(histogram["sum_confidence"].to_pylist()) == pytest.approx(sum(one["raw_score"] for one in in_shard))
    for row in found:
        for one in row["instances"]:
            assert one["calibrated_score"] == one["raw_score"] >= config.label.score_threshold
            assert one["soft_probs"] == sorted(one["soft_probs"], reverse=True)
            assert sum(one["soft_probs"]) <= 1 + 1e-5


@pytest.mark.ray
def test_seconds_by_phase_are_with_each_shard(labelled: Labelled) -> None:
    for shard_id, uri in committed_shards(labelled.run).items():
        metadata = read_table_metadata(uri)
        phases = [float(metadata[f"{name}_seconds"]) for name in ("read", "predict", "encode", "write")]
        assert all(0 < seconds < 60 for seconds in phases[:3])
        assert phases[3] == 0, "not known before the file is written"
        assert sum(phases) <= float(metadata["seconds"]) + 0.01
        assert int(metadata["shard_id"]) == shard_id
        assert metadata["host"]
        assert abs(float(metadata["finished_at"]) - time.time()) < 600


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_decoding_by_tasks_on_several_workers_gives_the_same_labels(
    config: Config, labelled: Labelled, prepare: Any, tmp_path: Path
) -> None:
    other = replace(config, label=replace(config.label, decoding="tasks", num_workers="auto"))
    run_by_tasks = prepare(other, tmp_path / "tasks")
    label.run_stage(other, run_by_tasks)
    assert rows(run_by_tasks) == rows(labelled.run)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_worker_without_the_gpu_that_it_should_have_says_so(config: Config, prepare: Any, tmp_path: Path) -> None:
    run = prepare(config, tmp_path / "run")
    with pytest.raises(InputError, match=r"Ray counts 1 GPUs there, torch sees none .* set label.num_gpus"):
        label.run_stage(replace(config, label=replace(config.label, num_gpus=1)), run)


@pytest.mark.ray
def test_where_the_time_went_is_in_the_run(config: Config, labelled: Labelled) -> None:
    commit_config(labelled.run, config)
    labels = run_status(labelled.run, num_slowest=2)["labels"]
    assert labels["num_instances"] == labelled.artifact["num_instances"]
    assert all(labels["seconds_by_phase"][phase] > 0 for phase in ("read", "predict", "encode"))
    assert [one["host"] for one in labels["slowest_shards"]] == [socket.gethostname()] * 2


@pytest.mark.ray
def test_the_progress_line_counts_instances_and_quarantined_images(labelled: Labelled) -> None:
    [last] = [line for line in labelled.printed.splitlines() if line.startswith("label: 32/32 images")]
    assert re.search(r"[\d.]+ images/s  [\d.]+ instances/s  0 quarantined  took", last)


@pytest.mark.ray
@pytest.mark.usefixtures("without_ray")
def test_ray_and_this_process_make_the_same_files(config: Config, labelled: Labelled, tmp_path: Path) -> None:
    """Because both make the same files, most tests run stages in this process and need no cluster."""
    run = prepared_run(config, tmp_path / "run")
    artifact = label.run_stage(config, run)
    for mine, theirs in zip(committed_shards(run).values(), committed_shards(labelled.run).values(), strict=True):
        assert read_table(mine).equals(read_table(theirs))
    for name in ("drift", "histogram", "errors"):
        mine, theirs = (read_bytes(one.path("labels", f"{name}.parquet")) for one in (run, labelled.run))
        assert mine == theirs
    told = {name: artifact[name] for name in artifact if name not in ("created", "seconds")}
    assert told == {name: labelled.artifact[name] for name in told}


@pytest.mark.usefixtures("without_ray")
def test_only_missing_shards_are_made_again(config: Config, prepare: Any, tmp_path: Path) -> None:
    run = prepare(config, tmp_path / "run")
    label.run_stage(config, run)
    before, times_before = rows(run), times(run)
    Path(committed_shards(run)[3]).unlink()
    Path(run.path("labels", "artifact.json")).unlink()
    label.run_stage(config, run)
    assert rows(run) == before
    assert {shard: time for shard, time in times(run).items() if shard != 3} == {
        shard: time for shard, time in times_before.items() if shard != 3
    }


@pytest.mark.usefixtures("without_ray")
def test_other_settings_put_the_old_labels_aside(config: Config, prepare: Any, tmp_path: Path) -> None:
    run = prepare(config, tmp_path / "run")
    label.run_stage(config, run)
    other = replace(config, label=replace(config.label, shard_size=20))
    label.run_stage(other, run)
    assert len(committed_shards(run)) == 2
    [aside] = (tmp_path / "run" / "superseded").iterdir()
    assert len(list(aside.glob("shard-*.parquet"))) == 4


@pytest.mark.usefixtures("without_ray")
def test_mask_quality_by_agreement_is_stored_and_all_else_stays(config: Config, prepare: Any, tmp_path: Path) -> None:
    run = prepare(config, tmp_path / "run")
    artifact, before = label.run_stage(config, run), rows(run)
    assert "mask_quality" not in artifact["inputs"]["label"], (
        "labels made before the setting existed must stay finished"
    )
    other = replace(config, label=replace(config.label, mask_quality="agreement"))
    label.run_stage(other, run)
    now, then = ([one for row in found for one in row["instances"]] for found in (rows(run), before))
    pairs = list(zip(now, then, strict=True))
    assert {was["mask_quality"] for _, was in pairs} == {1.0}
    # The fake finds the same shapes in a mirrored image, so only masks across the middle agree with any.
    assert len({one["mask_quality"] for one, _ in pairs}) > 2
    for one, was in pairs:
        assert one["context"].pop("mask_quality") == one.pop("mask_quality")
        assert was["context"].pop("mask_quality") == was.pop("mask_quality")
        assert one == was


@pytest.mark.usefixtures("without_ray")
def test_another_teacher_never_mixes_with_the_old_labels(config: Config, prepare: Any, tmp_path: Path) -> None:
    run = prepare(config, tmp_path / "run")
    label.run_stage(config, run)
    Path(run.path("labels", "artifact.json")).unlink()
    Path(committed_shards(run)[2]).unlink()  # interrupted, and then the teacher is trained again
    run.commit_artifact("teacher", run.artifact("teacher") | {"fingerprint": "another"})
    label.run_stage(config, run)
    fingerprints = {read_table_metadata(uri)["fingerprint"] for uri in committed_shards(run).values()}
    [aside] = (tmp_path / "run" / "superseded").iterdir()
    before = {read_table_metadata(str(path))["fingerprint"] for path in aside.glob("shard-*.parquet")}
    assert len(fingerprints) == len(before) == 1
    assert fingerprints != before
    assert len(committed_shards(run)) == 4


@pytest.mark.usefixtures("without_ray")
def test_another_corrector_changes_calibrated_scores_only(config: Config, prepare: Any, tmp_path: Path) -> None:
    run = prepare(config, tmp_path / "run")
    label.run_stage(config, run)
    before = rows(run)
    rng = np.random.default_rng(0)
    detections = Detections(
        num_classes=6,
        class_indices=rng.integers(0, 6, 500).astype(np.int32),
        raw_scores=rng.random(500),
        image_indices=np.arange(500) // 5,
        outcomes=(rng.random(500) < 0.3).astype(np.int8),
        weights=np.ones(500),
    )
    context = FitContext(num_bins=5, frequency_groups=np.array(["r"] * 6), similarity=None, seed=0)
    corrector = fit_corrector("temperature", detections, context=context)
    commit_json(run.path("calibration", "corrector.json"), corrector.to_json())
    artifact = label.run_stage(config, run)
    after = rows(run)
    assert artifact["corrector"] == "temperature"
    for old, new in zip(before, after, strict=True):
        for old_one, new_one in zip(old["instances"], new["instances"], strict=True):
            one = Detections.of_scores([new_one["class_index"]], [new_one["raw_score"]], num_classes=6)
            assert new_one.pop("calibrated_score") == pytest.approx(float(corrector(one)[0]), abs=1e-6)
            old_one.pop("calibrated_score")
        assert old == new
    times_before = times(run)
    label.run_stage(config, run)
    assert times(run) == times_before, "shards of the same corrector are not written again"


@pytest.mark.usefixtures("without_ray")
def test_bad_images_are_quarantined_with_their_reason(config: Config, prepare: Any, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    shutil.copytree(config.data.pool, pool)
    good = next(pool.iterdir()).read_bytes()
    Image.fromarray(np.zeros((400, 400, 3), np.uint8)).save(pool / "huge.png")
    (pool / "zero.jpg").write_bytes(b"")
    (pool / "truncated.jpg").write_bytes(good[: len(good) // 2])
    (pool / "text.jpg").write_text("not an image")
    data = replace(config.data, pool=str(pool), pool_truth=None, max_image_pixels=100_000)
    config = replace(config, data=data, label=replace(config.label, max_bad_fraction=0.2))
    run = prepare(config, tmp_path / "run")
    artifact = label.run_stage(config, run)
    errors = {row["image_id"]: row["reason"] for row in read_table(run.path("labels", "errors.parquet")).to_pylist()}
    assert set(errors) == {"huge.png", "zero.jpg", "truncated.jpg", "text.jpg"}
    assert errors["zero.jpg"] == "zero bytes"
    assert errors["huge.png"].startswith("too large")
    assert artifact["num_quarantined"] == 4
    assert artifact["num_images"] == 36

    strict = replace(config, label=replace(config.label, max_bad_fraction=0.05))
    Path(run.path("labels", "artifact.json")).unlink()
    times_before = times(run)
    with pytest.raises(InputError, match=r"4 of 36 pool images .* label.max_bad_fraction allows 0.05"):
        label.run_stage(strict, run)
    assert times(run) == times_before, "committed shards stay"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_pool_that_asks_for_too_many_cpus_is_refused(config: Config, prepare: Any, tmp_path: Path) -> None:
    run = prepare(config, tmp_path / "run")
    greedy = replace(config, label=replace(config.label, num_workers=3))
    with pytest.raises(InputError, match=r"label.num_workers: 3 workers x 1 CPUs must leave one CPU free"):
        label.run_stage(greedy, run)


@pytest.mark.usefixtures("without_ray")
def test_stages_out_of_order_say_what_to_run_first(config: Config, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Run teacher first"):
        label.run_stage(config, RunFolder(str(tmp_path)))
