"""The pool is listed once: before anything is spent, and not again until labelling has finished."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prepared import prepared_run
from raylabel.config import Config
from raylabel.dataset.pool import manifest as manifest_files
from raylabel.dataset.pool.image import PoolImage
from raylabel.dataset.pool.manifest import manifest_images, read_manifest
from raylabel.files.reading import exists
from raylabel.run.data import RunData
from raylabel.run.folder import RunFolder
from raylabel.run.labels.manifest import LISTING, count_pool, ensure_manifest, manifest_folder, pool_images
from raylabel.stages.check import check_run
from raylabel.stages.label import run_stage
from without_ray import put_stages_here

SIZE = 8


@pytest.fixture
def listings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of every listing of a pool in this test."""
    numbers: list[int] = []
    list_pool = RunData.list_pool

    def counted(data: RunData, *args: Any) -> Iterator[PoolImage]:
        numbers.append(0)
        for image in list_pool(data, *args):
            numbers[-1] += 1
            yield image

    monkeypatch.setattr(RunData, "list_pool", counted)
    return numbers


@pytest.fixture
def own_pool(config: Config, tmp_path: Path) -> Config:
    """The config, with a copy of the pool."""
    shutil.copytree(str(config.data.pool), tmp_path / "pool")
    return replace(config, data=replace(config.data, pool=str(tmp_path / "pool")))


def test_a_run_lists_once_and_so_do_its_restarts(config: Config, tmp_path: Path, listings: list[int]) -> None:
    run = prepared_run(config, tmp_path / "run")
    first, again = (check_run(config, run, resumes=True)["pool"] for _ in range(2))
    assert first["num_images"] == again["num_images"] == 32
    assert listings == [32]
    with pytest.MonkeyPatch.context() as patch:
        put_stages_here(patch)
        assert run_stage(config, run)["num_images"] == 32
    assert listings == [32]
    assert not exists(run.path(LISTING))


def test_check_alone_leaves_no_listing(config: Config, tmp_path: Path, listings: list[int]) -> None:
    run = RunFolder(str(tmp_path / "run"))
    check_run(config, run)
    check_run(config, run)
    assert listings == [32, 32]
    assert not (tmp_path / "run" / LISTING).exists()


def test_a_copy_that_a_kill_cut_is_made_again(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, data = RunFolder(str(tmp_path / "run")), RunData(config)
    count_pool(run, data, shard_size=SIZE, keep=True)

    def killed(uri: str, content: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(manifest_files, "commit_json", killed)
        with pytest.raises(KeyboardInterrupt):
            ensure_manifest(run, data, shard_size=SIZE)
    assert read_manifest(manifest_folder(run)) is None
    manifest = ensure_manifest(run, data, shard_size=SIZE)
    assert {image.image_id for image in manifest_images(manifest)} == {image.image_id for image in data.list_pool()}
    assert manifest == read_manifest(manifest_folder(run))


@pytest.mark.parametrize(
    "change", [{"tar_samples": "webdataset"}, {"allowed_roots": ("/elsewhere",)}, {"pool_truth": None}]
)
def test_other_settings_list_again(config: Config, tmp_path: Path, listings: list[int], change: dict[str, Any]) -> None:
    run = RunFolder(str(tmp_path / "run"))
    count_pool(run, RunData(config), shard_size=SIZE, keep=True)
    changed = replace(config, data=replace(config.data, **change))
    count_pool(run, RunData(changed), shard_size=SIZE, keep=True)
    count_pool(run, RunData(changed), shard_size=SIZE + 1, keep=True)
    assert listings == [32, 32, 32]
    assert len(list((tmp_path / "run" / LISTING).iterdir())) == 1, "older listings are removed"


def test_images_that_come_after_the_listing_are_new_to_the_next_run(
    own_pool: Config, tmp_path: Path, listings: list[int]
) -> None:
    run, pool = prepared_run(own_pool, tmp_path / "run"), Path(str(own_pool.data.pool))
    check_run(own_pool, run, resumes=True)
    shutil.copy(next(pool.glob("*.png"), None) or next(pool.iterdir()), pool / "new.png")
    with pytest.MonkeyPatch.context() as patch:
        put_stages_here(patch)
        assert run_stage(own_pool, run)["num_images"] == 32
        assert run_stage(own_pool, run)["num_images"] == 33
    assert listings == [32, 33]


def test_a_round_labels_what_the_run_has_listed(
    own_pool: Config, tmp_path: Path, listings: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    run, pool = prepared_run(own_pool, tmp_path / "run"), Path(str(own_pool.data.pool))
    second = run.nested("round-2")
    prepared_run(own_pool, second.uri)
    check_run(own_pool, run, resumes=True)
    data = RunData(own_pool)
    assert {image.image_id for image in pool_images(second, data, shard_size=SIZE)} == set(os.listdir(pool))
    with pytest.MonkeyPatch.context() as patch:
        put_stages_here(patch)
        run_stage(own_pool, run)
        assert run_stage(own_pool, second)["num_images"] == 32
        assert run_stage(own_pool, second)["num_images"] == 32
        assert listings == [32], "the check of the run listed the pool"
        first, then = (read_manifest(manifest_folder(one)) for one in (run, second))
        assert first is not None
        assert then is not None
        assert first.digest == then.digest

        shutil.copy(next(pool.iterdir()), pool / "new.png")
        assert run_stage(own_pool, second)["num_images"] == 32, "the run has not listed the new image yet"
        assert run_stage(own_pool, run)["num_images"] == 33
        assert listings == [32, 33]
        assert run_stage(own_pool, second)["num_images"] == 33
    assert listings == [32, 33]
    assert "round-2/label: the pool grew by 1 images" in capsys.readouterr().out


def test_a_run_that_has_not_listed_lists_for_its_sample(config: Config, tmp_path: Path, listings: list[int]) -> None:
    run, data = RunFolder(str(tmp_path / "run")), RunData(config)
    assert len(list(pool_images(run, data, shard_size=SIZE))) == 32
    count_pool(run, data, shard_size=SIZE, keep=True)
    assert len(list(pool_images(run, data, shard_size=SIZE))) == 32
    assert len(list(pool_images(run, data, shard_size=SIZE + 1))) == 32, "another size makes other shards"
    assert listings == [32, 32, 32]
