"""A model that raises exceptions: images are quarantined one by one, and a model that always fails stops the stage."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fakes import FakeSegmenter
from generated_set import Prepare
from raylabel.config import Config
from raylabel.errors import InputError
from raylabel.files.tables import read_table
from raylabel.run.data import RunData
from raylabel.run.labels.shards import committed_shards
from raylabel.stages import calibrate, evaluate, label, prototypes
from raylabel.stages.pool_sample import score_images
from stored_labels import label_rows

pytestmark = pytest.mark.usefixtures("without_ray")


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, error_at: Callable[[Tensor], Exception | None]) -> Iterator[list[int]]:
    """Make the model's `predict` and `embed` fail at some images. Yields the sizes of all its batches."""
    sizes: list[int] = []

    def failing_call(name: str) -> Any:
        sound = getattr(FakeSegmenter, name)

        def call(self: FakeSegmenter, images: list[Tensor], *args: Any, **how: Any) -> Any:
            sizes.append(len(images))
            for image in images:
                if error := error_at(image):
                    raise error
            return sound(self, images, *args, **how)

        return call

    with monkeypatch.context() as patch:
        for name in ("predict", "embed"):
            patch.setattr(FakeSegmenter, name, failing_call(name))
        yield sizes


def is_white(image: Tensor) -> bool:
    return bool((image == 1).all())


def always(image: Tensor) -> Exception:
    return ValueError("cannot read\ns3://key:secret@bucket")


@pytest.fixture
def with_white(config: Config, tmp_path: Path) -> Config:
    """A pool of 32 images and two white ones, in the same shard as others."""
    pool = tmp_path / "pool"
    shutil.copytree(config.data.pool, pool)
    first, *_, last = sorted(path.stem for path in pool.iterdir())
    for name in (f"{first}-white", f"{last}-white"):
        Image.fromarray(np.full((64, 64, 3), 255, np.uint8)).save(pool / f"{name}.png")
    data = replace(config.data, pool=str(pool), pool_truth=None)
    return replace(config, data=data, label=replace(config.label, max_bad_fraction=0.1))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), "model failed: CUDA out of memory"),
        (ValueError("no objects"), "model failed: ValueError: no objects"),
    ],
)
def test_only_the_image_at_which_the_model_fails_is_quarantined(
    with_white: Config,
    prepare: Prepare,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    reason: str,
) -> None:
    sound, run = prepare(with_white, tmp_path / "sound"), prepare(with_white, tmp_path / "run")
    label.run_stage(with_white, sound)
    with failing(monkeypatch, lambda image: error if is_white(image) else None) as sizes:
        artifact = label.run_stage(with_white, run)
    rows = {row["image_id"]: row for row in label_rows(run)}
    failed = [name for name in rows if "white" in name]
    assert [rows.pop(name)["status"] for name in failed] == [reason] * 2
    assert list(rows.values()) == [row for row in label_rows(sound) if "white" not in row["image_id"]]
    assert artifact["num_quarantined"] == 2
    assert artifact["quarantined_by_reason"] == {"model failed": 2}
    errors = read_table(run.path("labels", "errors.parquet"))
    assert errors["reason"].to_pylist() == [reason] * 2
    assert max(sizes) > 1

    strict = replace(with_white, label=replace(with_white.label, max_bad_fraction=0.05))
    run = prepare(strict, tmp_path / "strict")
    with (
        failing(monkeypatch, lambda image: error if is_white(image) else None),
        pytest.raises(InputError, match=r"2 of 34 pool images .* Most frequent reason: model failed \(2\)"),
    ):
        label.run_stage(strict, run)


def test_a_model_that_always_fails_stops_after_three_shards(
    config: Config, prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, label=replace(config.label, max_bad_fraction=1.0))
    run = prepare(config, tmp_path / "run")
    with failing(monkeypatch, always) as sizes, pytest.raises(InputError) as refused:
        label.run_stage(config, run)
    assert str(refused.value).startswith(
        f"label: the model fails at all 24 images of 3 shards, such as {sorted(Path(config.data.pool).iterdir())[16]} "
        "(model failed: ValueError: cannot read s3://***@bucket). "
    )
    assert len(str(refused.value).splitlines()) == 1
    assert sum(sizes) == 2 * 24, "no image of the fourth shard"
    [traceback] = Path(run.path("labels")).glob("model-failure.txt")
    assert str(refused.value).endswith(f" Traceback: {traceback}")
    content = traceback.read_text()
    assert content.startswith("Traceback (most recent call last):\n")
    assert "ValueError: cannot read\ns3://***@bucket" in content
    assert not committed_shards(run), "a repaired model must label these images"
    assert label.run_stage(config, run)["num_quarantined"] == 0
    assert not traceback.exists()


def test_all_images_of_a_small_pool_fail(
    config: Config, prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, label=replace(config.label, shard_size=16, max_bad_fraction=1.0))
    run = prepare(config, tmp_path / "run")
    with failing(monkeypatch, always), pytest.raises(InputError, match="fails at all 32 images of 2 shards"):
        label.run_stage(config, run)
    assert not committed_shards(run)


def sum_of(image: Tensor) -> int:
    return int((image * 255).round().long().sum())


def fails_but_at(paths: list[Path]) -> Callable[[Tensor], Exception | None]:
    """Return a function that gives an error for every image but these."""
    sums = {int(np.asarray(Image.open(path)).astype(np.int64).sum()) for path in paths}
    return lambda image: None if sum_of(image) in sums else ValueError("no")


@pytest.mark.parametrize("sound", [slice(0, 1), slice(23, 24)])
def test_shards_that_fail_are_quarantined_if_the_model_works_elsewhere(
    config: Config, prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sound: slice
) -> None:
    """The model predicts one image of the first or of the third shard. The other shards fail as a whole."""
    config = replace(config, label=replace(config.label, max_bad_fraction=0.97))
    paths = sorted(Path(config.data.pool).iterdir())[sound]
    run = prepare(config, tmp_path / "run")
    with failing(monkeypatch, fails_but_at(paths)):
        artifact = label.run_stage(config, run)
    assert artifact["quarantined_by_reason"] == {"model failed": 31}
    assert [row["image_id"] for row in label_rows(run) if row["status"] == "ok"] == [path.name for path in paths]
    assert len(committed_shards(run)) == 4


def test_failing_shards_end_the_stage_at_the_share_that_may_be_quarantined(
    config: Config, prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, label=replace(config.label, max_bad_fraction=0.3))
    run = prepare(config, tmp_path / "run")
    with (
        failing(monkeypatch, fails_but_at(sorted(Path(config.data.pool).iterdir())[:8])),
        pytest.raises(InputError, match="the model fails at all 16 images of 2 shards"),
    ):
        label.run_stage(config, run)
    assert list(committed_shards(run)) == [0]
    lenient = replace(config, label=replace(config.label, max_bad_fraction=0.8))
    with failing(monkeypatch, always):  # the committed shard tells that the model works
        assert label.run_stage(lenient, run)["num_quarantined"] == 24


@pytest.mark.parametrize("stage", [calibrate, evaluate, prototypes])
def test_a_stage_that_needs_every_image_names_the_one_at_which_the_model_fails(
    config: Config, prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: Any
) -> None:
    config = replace(
        config, smoothing=replace(config.smoothing, warmup_steps=0), data=replace(config.data, pool_truth=None)
    )
    run = prepare(config, tmp_path / "run")
    data = RunData(config)
    images = (data.labelled if stage is prototypes else data.validation).images
    folder = {"prototypes": "prototypes", "evaluate": "evaluation", "calibrate": "calibration"}[stage.__name__[16:]]
    Path(run.path(folder, "artifact.json")).unlink(missing_ok=True)
    if stage is evaluate:
        monkeypatch.setattr(evaluate, "calibrate_models", lambda config, run: None)
        monkeypatch.setattr(evaluate, "inputs", lambda config, run, data: {})
        monkeypatch.setattr(evaluate, "_correctors", lambda config, run: {})
    others = fails_but_at([Path(image.uri) for row, image in enumerate(images) if row != 5])
    with failing(monkeypatch, others), pytest.raises(InputError) as refused:
        stage.run_stage(config, run)
    message = str(refused.value)
    assert f"{images[5].uri}: this " in message
    assert "image can't be used: model failed: ValueError: no. Traceback: " in message
    assert len(message.splitlines()) == 1
    assert "ValueError: no" in Path(message.partition(" Traceback: ")[2]).read_text()


def test_a_sample_without_any_prediction_is_refused(
    config: Config, prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(config, tmp_path / "run")
    images = [image.source for image in RunData(config).list_pool()][:4]
    with failing(monkeypatch, fails_but_at([Path(images[0].uri)])):
        [found] = score_images(config, run, [(run.path("teacher"), images)])
    assert found.num_classes == 6
    with (
        failing(monkeypatch, always),
        pytest.raises(InputError, match="teacher: fails at every image of a shard: model failed: ValueError: cannot"),
    ):
        score_images(config, run, [(run.path("teacher"), images)])
