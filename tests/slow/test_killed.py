"""Killed and started again: exactly the rows of an undisturbed run, each once, finished shards not redone."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prepared import prepared_run
from runs import MINUTES, finish, start, write_config

from raylabel.dataset.synthetic import generate
from raylabel.labels import PseudoLabels, committed_shards
from raylabel.models.saved import load_segmenter
from raylabel.pipeline.attempts import KILLED_ITS_WORKER
from raylabel.storage import RunFolder, read_json

pytestmark = pytest.mark.slow


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the driver alone; Ray's own processes end by themselves when it is gone."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=MINUTES)


def wait_for(condition: Any, *, process: subprocess.Popen[str], within: float = 3 * MINUTES) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "timed out"
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    generate(folder, num_images=400, num_classes=6, image_size=64)
    return folder


def rows(run: RunFolder) -> list[dict[str, Any]]:
    return PseudoLabels(run, 6).table.to_pylist()


def test_a_driver_killed_in_the_middle_loses_and_doubles_nothing(generated: Path, tmp_path: Path) -> None:
    config, path = write_config(tmp_path, generated, "tiny_maskrcnn", shard_size=8, score_threshold=0.0, batch_size=2)
    undisturbed = prepared_run(config, tmp_path / "undisturbed")
    finish(start("label", path, "--out", undisturbed.uri))
    num_shards = len(committed_shards(undisturbed))
    assert num_shards >= 20

    run = prepared_run(config, tmp_path / "killed")
    driver = start("label", path, "--out", run.uri)
    wait_for(lambda: len(committed_shards(run)) >= num_shards // 3, process=driver)
    kill(driver)
    time.sleep(5)  # workers that outlive their driver for a moment may finish a shard, which is as good as any
    before = {uri: Path(uri).stat().st_mtime_ns for uri in committed_shards(run).values()}
    assert num_shards // 3 <= len(before) < num_shards
    assert not Path(run.path("labels", "artifact.json")).exists()

    finish(start("label", path, "--out", run.uri))
    assert {uri: Path(uri).stat().st_mtime_ns for uri in before} == before, "finished shards are not redone"
    after, expected = rows(run), rows(undisturbed)
    assert len({row["image_id"] for row in after}) == len(after) == len(expected)
    assert after == expected
    ours, theirs = (read_json(one.path("labels", "artifact.json")) for one in (run, undisturbed))
    for name in ("num_images", "num_instances", "num_quarantined", "selection"):
        assert ours[name] == theirs[name]


def test_a_training_killed_in_the_middle_goes_on_from_its_checkpoint(generated: Path, tmp_path: Path) -> None:
    config, path = write_config(tmp_path, generated, "tiny_maskrcnn")
    models = {}
    for name in ("undisturbed", "killed"):
        run = RunFolder(str(tmp_path / name))
        finish(start("prototypes", path, "--out", run.uri))
        trainer = start("teacher", path, "--out", run.uri)
        if name == "killed":
            checkpoints = Path(run.path("teacher", "checkpoints"))
            wait_for(lambda seen=checkpoints: len(list(seen.glob("*/checkpoint_*"))) >= 2, process=trainer)
            kill(trainer)
            time.sleep(5)
            assert not Path(run.path("teacher", "model.json")).exists()
            trainer = start("teacher", path, "--out", run.uri)
        finish(trainer)
        models[name] = load_segmenter(run.path("teacher"))[0].state_dict()
        steps = [
            read["step"]
            for read in map(json.loads, Path(run.path("teacher", "metrics.jsonl")).read_text().splitlines())
        ]
        assert steps == sorted(set(steps))
        assert steps[-1] == config.teacher.steps
    for name, tensor in models["undisturbed"].items():
        np.testing.assert_allclose(models["killed"][name].numpy(), tensor.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_image_that_kills_its_worker_is_quarantined(
    generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, path = write_config(tmp_path, generated, "fakes:LethalSegmenter", shard_size=8, batch_size=4)
    pool = Path(str(config.data.pool))
    image = np.full((64, 64, 3), 255, np.uint8)
    lethal = tmp_path / "pool" / "lethal.png"
    lethal.parent.mkdir()
    for source in sorted(pool.iterdir())[:20]:
        (lethal.parent / source.name).symlink_to(source)
    Image.fromarray(image).save(lethal)
    run = prepared_run(config, tmp_path / "run")
    finish(start("label", path, "--out", run.uri, "--data.pool", str(lethal.parent)))
    statuses = {row["image_id"]: row["status"] for row in rows(run)}
    assert statuses.pop("lethal.png") == KILLED_ITS_WORKER
    assert len(statuses) == 20
    assert set(statuses.values()) == {"ok"}


def test_two_images_that_crash_the_decoder_are_found_in_one_shard(
    generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segmentation fault in a decoding thread, not in the model."""
    config, path = write_config(tmp_path, generated, "fakes:CrashingDecoderSegmenter", shard_size=16, batch_size=4)
    pool = tmp_path / "pool"
    pool.mkdir()
    for source in sorted(Path(str(config.data.pool)).iterdir())[:14]:
        (pool / source.name).symlink_to(source)
    for name in ("a-lethal.ppm", "lethal-too.ppm"):
        (pool / name).write_bytes(b"P6 1 1 255 crash")
    run = prepared_run(config, tmp_path / "run")
    finish(start("label", path, "--out", run.uri, "--data.pool", str(pool), "--label.max_bad_fraction", "0.5"))
    statuses = {row["image_id"]: row["status"] for row in rows(run)}
    assert [statuses.pop(name) for name in ("a-lethal.ppm", "lethal-too.ppm")] == [KILLED_ITS_WORKER] * 2
    assert len(statuses) == 14
    assert set(statuses.values()) == {"ok"}
