"""The calibration actor: each shard counts once despite retries. The actor's death changes the view, but no table."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray

from prepared import prepared_run
from raylabel.calibration import Detections, ReliabilityBins
from raylabel.calibration.metrics import ccece
from raylabel.cluster import live_calibration
from raylabel.cluster.live_calibration import NAMESPACE, CalibrationActor, LiveCalibration, actor_name
from raylabel.cluster.map_shards import map_shards
from raylabel.config import Config, dump_config, load_config
from raylabel.files.committing import commit_bytes
from raylabel.files.json_files import commit_json
from raylabel.files.reading import read_bytes
from raylabel.predictions.matching import detection_weights, verification_weights
from raylabel.report.console import format_status
from raylabel.run import calibration as stored_calibration
from raylabel.run.data import RunData
from raylabel.run.folder import RunFolder
from raylabel.run.labels.shards import committed_shards
from raylabel.stages import calibrate, label, label_shards
from raylabel.stages.status import run_status
from stored_labels import label_table
from without_ray import put_stages_here

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

SECONDS = 60


def bins_of(seed: int) -> ReliabilityBins:
    rng = np.random.default_rng(seed)
    detections = Detections(
        num_classes=3,
        class_indices=rng.integers(0, 3, 20).astype(np.int32),
        raw_scores=rng.random(20),
        image_indices=np.arange(20),
        outcomes=rng.integers(0, 3, 20).astype(np.int8),
        weights=np.ones(20),
    )
    return ReliabilityBins.from_detections(detections, 5)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


def counted(actor: Any, num_shards: int) -> list[int]:
    packed, _ = ray.get(actor.view.remote())
    return np.flatnonzero(np.unpackbits(packed, count=num_shards)).tolist()


def test_retried_shards_count_once_in_any_order() -> None:
    first, second, actor = bins_of(1), bins_of(2), CalibrationActor.remote(3, 5, 20)
    added = [ray.get(actor.add.remote(shard, bins.to_table())) for shard, bins in ((7, first), (0, second), (7, first))]
    assert added == [True, True, False]
    assert counted(actor, 20) == [0, 7]
    assert ray.get(actor.view.remote())[1].equals((first + second).to_table())


def test_a_restarted_actor_gets_what_it_misses_and_nothing_twice(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    categories = [{"category_id": i, "name": str(i), "frequency_group": "r", "num_train_images": 1} for i in range(3)]
    commit_json(run.path("classes.json"), {"categories": categories, "is_federated": False})
    bins = [bins_of(seed) for seed in range(4)]
    live = LiveCalibration(
        "calibrate",
        run=run,
        folder="calibration",
        num_bins=5,
        num_shards=6,
        is_matched=True,
        recount=lambda shard_id: bins[shard_id].to_table(),
    )
    for shard_id in (0, 1, 3):
        ray.get(live.actor.add.remote(shard_id, bins[shard_id].to_table()))
    live.finished([0, 1])
    live.finished(2)
    live.refresh()
    assert counted(live.actor, 6) == [0, 1, 2, 3], "2 was never sent by its worker"
    ray.kill(live.actor, no_restart=False)
    wait_until(lambda: counted(live.actor, 6) == [])
    ray.get(live.actor.add.remote(1, bins[1].to_table()))
    live.refresh()
    assert counted(live.actor, 6) == [0, 1, 2], "3 is not known to be finished: its worker sends it again"
    _, table = ray.get(live.actor.view.remote())
    expected = (bins[0] + bins[1] + bins[2]).to_table()
    assert table.select(["class_index", "bin", "num", "num_correct"]).equals(
        expected.select(["class_index", "bin", "num", "num_correct"])
    )
    np.testing.assert_allclose(table["sum_confidence"].to_numpy(), expected["sum_confidence"].to_numpy())
    ray.kill(live.actor)


def sigkill(actor: Any) -> None:
    os.kill(ray.get(actor.__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)


KILLS: dict[str, Callable[[Any], None]] = {
    "ray.kill": lambda actor: ray.kill(actor, no_restart=False),
    "SIGKILL": sigkill,
    "for good": lambda actor: ray.kill(actor, no_restart=True),
}


class Disturbance:
    """A stand-in for `map_shards` that kills the actor after two shards. `seen` is the live view at the end."""

    def __init__(self, stage: Any, run: RunFolder, how: str) -> None:
        self._run, self._how = run, how
        self._stage = stage.__name__.rsplit(".", 1)[-1]
        self.seen: dict[str, Any] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Iterator[pa.Table]:
        num_shards = len(kwargs["shards"])
        names = [one["name"] for one in ray.util.list_named_actors(all_namespaces=True)]
        [name] = [one for one in names if one.startswith(actor_name(self._stage))]
        actor = ray.get_actor(name, namespace=NAMESPACE)
        for position, table in enumerate(map_shards(*args, **kwargs)):
            yield table
            if position == 1:
                wait_until(lambda: len(counted(actor, num_shards)) >= 2)
                KILLS[self._how](actor)
        if self._how != "for good":
            wait_until(lambda: self._view().get("shards_counted") == num_shards)
            self.seen = self._view()

    def _view(self) -> dict[str, Any]:
        return run_status(self._run)["live"].get(self._stage, {})


SHARD_SIZE = 2


def in_small_shards(config: Config) -> Config:
    # A low threshold, so that some of the fake's shapes are correct.
    calibration = replace(config.calibration, iou_threshold=0.05)
    return replace(config, label=replace(config.label, shard_size=SHARD_SIZE), calibration=calibration)


@pytest.fixture(scope="module")
def undisturbed(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run labelled with the corrector that changes nothing, then calibrated, without Ray."""
    config = in_small_shards(load_config(generated / "config.yaml"))
    run = prepared_run(config, tmp_path_factory.mktemp("undisturbed"))
    with pytest.MonkeyPatch.context() as patch:
        put_stages_here(patch)
        label.run_stage(config, run)
        calibrate.run_stage(config, run)
    return run


@pytest.fixture
def quick_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_calibration, "SNAPSHOT_SECONDS", 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGKILL", "for good"])
@pytest.mark.usefixtures("quick_snapshots")
def test_killed_while_calibrating(
    how: str, config: Config, undisturbed: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = in_small_shards(config)
    run = prepared_run(config, tmp_path / "run")
    disturbance = Disturbance(calibrate, run, how)
    monkeypatch.setattr(calibrate, "map_shards", disturbance)
    artifact = calibrate.run_stage(config, run)
    for name in ("detections", "bins", "bins_cross_validated", "classes"):
        ours, theirs = (read_bytes(one.path("calibration", f"{name}.parquet")) for one in (run, undisturbed))
        assert ours == theirs, name
    expected = undisturbed.artifact("calibration")
    assert expected is not None
    assert artifact["raw"] == expected["raw"]
    assert artifact["corrector_digest"] == expected["corrector_digest"]
    assert not Path(run.path("calibration", "live.json")).exists()
    assert run_status(run)["live"] == {}
    if how != "for good":
        figures = disturbance.seen["groups"]["all"]
        bins = bins_as_matched(config, run)
        assert artifact["num_correct"] > 0
        assert figures["num_predictions"] == pytest.approx(bins.num.sum())
        assert figures["accuracy"] == pytest.approx(bins.num_correct.sum() / bins.num.sum())
        assert figures["ccece"] == pytest.approx(ccece(bins), abs=1e-6)


def bins_as_matched(config: Config, run: RunFolder) -> ReliabilityBins:
    """Compute bins of the stored detections with the workers' weights, before all images together improve them."""
    detections, image_ids = stored_calibration.load_detections(run)
    annotated = RunData(config).calibration
    row_of = {str(image.image_id): row for row, image in enumerate(annotated.images)}
    class_weights, weights = verification_weights(annotated), np.ones(len(detections))
    for index, image_id in enumerate(image_ids):
        rows = detections.image_indices == index
        weights[rows] = detection_weights(
            detections.known_outcomes[rows],
            detections.class_indices[rows],
            class_weights,
            annotated.object_classes(row_of[image_id]),
        )
    return ReliabilityBins.from_detections(replace(detections, weights=weights), config.calibration.num_bins)


@pytest.mark.parametrize("how", [pytest.param("ray.kill", marks=pytest.mark.slow), "SIGKILL"])
@pytest.mark.usefixtures("quick_snapshots")
def test_killed_while_labelling(
    how: str, config: Config, undisturbed: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = in_small_shards(config)
    run = prepared_run(config, tmp_path / "run")
    disturbance = Disturbance(label, run, how)
    monkeypatch.setattr(label_shards, "map_shards", disturbance)
    artifact = label.run_stage(config, run)
    labels, expected_labels = (label_table(one) for one in (run, undisturbed))
    assert labels.equals(expected_labels)
    ours, theirs = (read_bytes(one.path("labels", "histogram.parquet")) for one in (run, undisturbed))
    assert ours == theirs
    expected = undisturbed.artifact("labels")
    assert expected is not None
    for name in ("num_images", "num_instances", "num_quarantined", "selection"):
        assert artifact[name] == expected[name]
    assert not Path(run.path("labels", "live.json")).exists()
    figures = disturbance.seen["groups"]["all"]
    scores = [one["calibrated_score"] for row in labels.to_pylist() for one in row["instances"]]
    assert figures["num_predictions"] == len(scores)
    assert figures["expected_accuracy"] == pytest.approx(np.mean(scores), abs=1e-6)
    assert figures["expected_ccece"] == pytest.approx(0, abs=1e-6), "the corrector changes nothing"
    assert "ccece" not in figures


@pytest.mark.usefixtures("quick_snapshots")
def test_status_in_another_process_shows_a_resumed_stage_whole_and_a_dead_one_as_such(
    config: Config, undisturbed: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(undisturbed.uri, tmp_path / "run")
    config, run = in_small_shards(config), RunFolder(str(tmp_path / "run"))
    commit_bytes(run.path("config.yaml"), dump_config(config).encode())
    for shard_id in (3, 4):
        Path(committed_shards(run)[shard_id]).unlink()
    Path(run.path("labels", "artifact.json")).unlink()
    shown: list[Any] = []

    def interrupted(*args: Any, **kwargs: Any) -> Iterator[pa.Table]:
        assert len(kwargs["shards"]) == 2
        yield from map_shards(*args, **kwargs)
        wait_until(lambda: run_status(run)["live"].get("label", {}).get("shards_counted") == 16)
        command = [sys.executable, "-m", "raylabel.cli", "status", run.uri]
        shown.append(json.loads(subprocess.check_output([*command, "--json"], text=True)))
        shown.append(subprocess.check_output(command, text=True))
        raise KeyboardInterrupt

    monkeypatch.setattr(label_shards, "map_shards", interrupted)
    with pytest.raises(KeyboardInterrupt):
        label.run_stage(config, run)
    status, text = shown
    assert (status["live"]["label"]["shards_counted"], status["live"]["label"]["shards_total"]) == (16, 16)
    assert "live label: raw scores of 16/16 shards" in text
    assert "exp. CCECE" in text
    content = json.loads(read_bytes(run.path("labels", "live.json")))
    commit_json(run.path("labels", "live.json"), content | {"updated": time.time() - 600})
    assert "10 min ago: no driver is at work" in format_status(run_status(run))
    commit_json(run.path("labels", "artifact.json"), undisturbed.artifact("labels"))
    assert run_status(run)["live"] == {}, "a finished stage has no live view, even if its file is there"
