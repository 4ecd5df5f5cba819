"""A pool that grows after it was labelled: only new shards are made, and later stages notice. One driver at a time."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import without_ray as here
from raylabel.cluster.map_shards import map_shards
from raylabel.config import Config, dump_config
from raylabel.errors import InputError
from raylabel.files.json_files import commit_json, read_json
from raylabel.files.tables import read_table
from raylabel.run.folder import RunFolder
from raylabel.run.labels.histograms import labelled_pool
from raylabel.run.labels.ledger import read_ledger
from raylabel.run.labels.shards import committed_shards, shard_sizes
from raylabel.run.lease import read_lease
from raylabel.stages import distill, evaluate, label, label_shards
from stored_labels import label_rows


@pytest.fixture
def growing(config: Config, tmp_path: Path) -> Config:
    """Config of a run whose pool has 20 of the 32 images, in shards of 8."""
    pool = tmp_path / "pool"
    pool.mkdir()
    for path in sorted(Path(str(config.data.pool)).iterdir())[::2]:
        shutil.copy(path, pool)
    return replace(config, data=replace(config.data, pool=str(pool)))


def grow(growing: Config, config: Config) -> None:
    shutil.copytree(str(config.data.pool), str(growing.data.pool), dirs_exist_ok=True)


def times(run: RunFolder) -> dict[int, int]:
    return {shard_id: Path(uri).stat().st_mtime_ns for shard_id, uri in committed_shards(run).items()}


def rows(run: RunFolder) -> dict[str, dict[str, Any]]:
    return {row["image_id"]: row for row in label_rows(run)}


@pytest.mark.usefixtures("without_ray")
def test_only_new_images_are_labelled_and_later_stages_know(
    config: Config, growing: Config, prepare: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = prepare(growing, tmp_path / "run")
    first = label.run_stage(growing, run)
    assert (first["num_images"], first["num_shards"]) == (16, 2)
    assert label.run_stage(growing, run)["created"] == first["created"], "nothing new: skipped"
    before, pool_before = times(run), labelled_pool(run)

    grow(growing, config)
    (Path(str(growing.data.pool)) / sorted(rows(run))[0]).unlink()
    capsys.readouterr()
    second = label.run_stage(growing, run)
    said = capsys.readouterr().out
    assert "the pool grew by 16 images, in 2 new shards" in said
    assert "1 labelled images are no longer in the pool" in said
    assert (second["num_images"], second["num_shards"]) == (32, 4)
    assert second["fingerprint"] == first["fingerprint"]
    assert second["pool_digest"] != first["pool_digest"]
    assert {shard_id: time for shard_id, time in times(run).items() if shard_id < 2} == before
    assert not (tmp_path / "run" / "superseded").exists()
    assert read_ledger(run, shard_sizes(run))["num_images"].to_pylist() == [8, 8, 8, 8]
    assert labelled_pool(run) != pool_before
    assert second["drift"] != first["drift"]

    at_once = prepare(config, tmp_path / "at_once")
    label.run_stage(config, at_once)
    ours, theirs = rows(run), rows(at_once)
    assert ours.keys() == theirs.keys()
    for image_id, row in ours.items():
        assert {**row, "uri": ""} == {**theirs[image_id], "uri": ""}


@pytest.mark.usefixtures("without_ray")
def test_distill_and_evaluate_depend_on_what_the_pool_held(
    config: Config, growing: Config, prepare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(growing, tmp_path / "run")
    fingerprints: dict[str, list[str]] = {"distill": [], "evaluate": []}

    def remember(run: RunFolder, stage: str, inputs: Any, work: Any, **_: Any) -> dict[str, Any]:
        fingerprints[stage].append(str(inputs))
        return {}

    for module in (distill, evaluate):
        monkeypatch.setattr(module, "execute_stage", remember)
    monkeypatch.setattr(evaluate, "calibrate_models", lambda config, run: None)
    commit_json(run.path("student", "artifact.json"), {"fingerprint": "student"})
    for grows in (False, False, True):
        if grows:
            grow(growing, config)
        label.run_stage(growing, run)
        distill.run_stage(growing, run)
        evaluate.run_stage(growing, run)
    for first, second, third in fingerprints.values():
        assert first == second != third


@pytest.mark.usefixtures("without_ray")
def test_a_growth_that_is_interrupted_goes_on_without_listing(
    config: Config, growing: Config, prepare: Any, tmp_path: Path
) -> None:
    run = prepare(growing, tmp_path / "run")
    label.run_stage(growing, run)
    grow(growing, config)

    def interrupted(*args: Any, **kwargs: Any) -> Iterator[Any]:
        yield next(here.map_shards(*args, **kwargs))
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_shards, "map_shards", interrupted)
        with pytest.raises(KeyboardInterrupt):
            label.run_stage(growing, run)
    assert run.artifact("labels") is None, "half a pool does not count as a whole one"
    with pytest.raises(InputError, match="Run label first"):
        distill.run_stage(growing, run)
    shutil.rmtree(str(growing.data.pool))
    shutil.copytree(str(config.data.pool), str(growing.data.pool))
    (Path(str(growing.data.pool)) / "later.jpg").write_bytes(b"")
    assert label.run_stage(growing, run)["num_images"] == 32
    assert label.run_stage(growing, run)["num_images"] == 33


@pytest.mark.usefixtures("without_ray")
def test_images_that_the_listing_refuses_are_rows(config: Config, prepare: Any, tmp_path: Path) -> None:
    names = [path.name for path in sorted(Path(str(config.data.pool)).iterdir())]
    (tmp_path / "images").symlink_to(str(config.data.pool))
    lines = [f"images/{name}" for name in names[:9]] + ["../secret.jpg"]
    (tmp_path / "pool.txt").write_text("\n".join(lines))
    (tmp_path.parent / "secret.jpg").write_bytes((Path(str(config.data.pool)) / names[0]).read_bytes())
    config = replace(config, data=replace(config.data, pool=str(tmp_path / "pool.txt"), pool_truth=None))
    config = replace(config, label=replace(config.label, max_bad_fraction=0.1))
    run = prepare(config, tmp_path / "run")
    assert label.run_stage(config, run)["quarantined_by_reason"] == {"outside of the pool": 1}
    assert rows(run)["../secret.jpg"]["status"] == "outside of the pool"
    assert [row["status"] for row in rows(run).values()].count("ok") == 9


@pytest.mark.usefixtures("without_ray")
def test_the_stage_ends_as_soon_as_too_many_images_are_bad(config: Config, prepare: Any, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    for number in range(60):
        (pool / f"{number:03d}.jpg").write_bytes(b"" if number % 2 else b"text")
    config = replace(config, data=replace(config.data, pool=str(pool), pool_truth=None))
    config = replace(config, label=replace(config.label, shard_size=1, max_bad_fraction=0.1))
    run = prepare(config, tmp_path / "run")
    with pytest.raises(
        InputError, match=r"7 of 60 pool images .* 53 images left to label; .*max_bad_fraction allows 0.1"
    ):
        label.run_stage(config, run)
    num_committed = len(committed_shards(run))
    assert 7 <= num_committed < 60
    assert len(read_table(run.path("labels", "errors.parquet"))) == 7
    with pytest.raises(InputError, match="images left to label"):
        label.run_stage(config, run)
    assert len(committed_shards(run)) < 60, "refused before any shard is labelled"
    tolerant = replace(config, label=replace(config.label, max_bad_fraction=1))
    assert label.run_stage(tolerant, run)["num_quarantined"] == 60


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_run_that_is_started_twice_has_one_driver(config: Config, prepare: Any, tmp_path: Path) -> None:
    run = prepare(config, tmp_path / "run")
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    failures: list[BaseException] = []

    def first() -> None:
        try:
            label.run_stage(config, run)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    while read_lease(run) is None and thread.is_alive():
        pass
    second = subprocess.run(
        [sys.executable, "-m", "raylabel.cli", "recalibrate", run.uri, "--corrector", "none"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    is_refused_in_time = thread.is_alive()
    thread.join()
    assert not failures
    assert len(rows(run)) == 32
    if is_refused_in_time:
        assert second.returncode == 2
        assert "is at work on this run" in second.stderr
        assert "Traceback" not in second.stderr


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_workers_of_a_driver_that_lost_the_run_commit_nothing(
    config: Config, prepare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(config, tmp_path / "run")

    def lose(*args: Any, **kwargs: Any) -> Iterator[Any]:
        lease = read_json(run.path("driver.json"))
        commit_json(run.path("driver.json"), lease | {"driver_id": "other", "host": "elsewhere"})
        return map_shards(*args, **kwargs)

    monkeypatch.setattr(label_shards, "map_shards", lose)
    with pytest.raises(InputError, match=r"process \d+ on elsewhere .* has taken it over"):
        label.run_stage(config, run)
    assert committed_shards(run) == {}
    assert read_json(run.path("driver.json"))["driver_id"] == "other"


@pytest.mark.usefixtures("without_ray")
def test_shards_whose_manifest_is_lost_are_not_mixed_with_others(config: Config, prepare: Any, tmp_path: Path) -> None:
    run = prepare(config, tmp_path / "run")
    label.run_stage(config, run)
    shutil.rmtree(run.path("labels", "pool"))
    Path(run.path("labels", "artifact.json")).unlink()
    with pytest.raises(InputError, match=r"labels/pool: the shard manifest of the committed shards is lost"):
        label.run_stage(config, run)
