"""Checkpoints: a death at any step changes no result, incomplete ones are ignored, and writing does not block."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from raylabel.config import TrainingConfig
from raylabel.errors import StorageError
from raylabel.models.build import build_segmenter
from raylabel.models.segmenter import Segmenter
from raylabel.training import checkpoints as module
from raylabel.training.checkpoints import (
    STEP_FILE,
    TENSORS_FILE,
    Checkpoints,
    Snapshot,
    TrainState,
    restore_snapshot,
    take_snapshot,
)
from raylabel.training.ema import MovingAverage
from raylabel.training.job import TrainContext
from raylabel.training.loop import train
from toy_training import NUM_CLASSES, a_job, assert_same_weights, new_segmenter

STEPS = 5
JOB = a_job(steps=STEPS, settings=TrainingConfig(checkpoint_every=2))


class KilledError(Exception):
    """Stands in for the death of the process."""


@pytest.fixture(scope="module")
def undisturbed() -> Segmenter:
    return train(new_segmenter(), JOB, TrainContext())


def in_folder(folder: Path, *, keep: int = 2, identity: str = "ours") -> Checkpoints:
    return Checkpoints(str(folder / "checkpoints"), identity=identity, keep=keep)


def go_on(folder: Path, dies: Callable[[int], bool] = lambda step: False) -> Segmenter:
    """Train like a restarted worker, with other initial weights. It dies after the given step, before it saves."""

    def die(step: int) -> bool:
        if dies(step):
            raise KilledError
        return False

    checkpoints = in_folder(folder)
    torch.manual_seed(99)
    segmenter = build_segmenter("tiny_maskrcnn", num_classes=NUM_CLASSES)
    restore = checkpoints.load_latest()
    if restore is None:
        segmenter.load_state_dict(new_segmenter().state_dict())  # because a first start begins with the job's weights
    context = TrainContext(restore=restore, save=checkpoints.save, wants_checkpoint=die)
    try:
        return train(segmenter, JOB, context)
    finally:
        checkpoints.wait()


@pytest.mark.parametrize("death", [1, 3, 4, 5])
def test_a_training_killed_after_any_step_ends_as_an_undisturbed_one(
    death: int, tmp_path: Path, undisturbed: Segmenter
) -> None:
    """The weights are equal bit for bit. Checkpoints follow steps 2, 4 and 5."""
    with pytest.raises(KilledError):
        go_on(tmp_path, lambda step: step == death)
    assert in_folder(tmp_path).last_step() == {1: None, 3: 2, 4: 2, 5: 4}[death]
    assert_same_weights(go_on(tmp_path), undisturbed)
    files = {file.name for file in tmp_path.rglob("*") if file.is_file()}
    assert files == {STEP_FILE, TENSORS_FILE}, "no pickle"


def test_a_checkpoint_of_the_end_holds_the_result(tmp_path: Path, undisturbed: Segmenter) -> None:
    go_on(tmp_path)
    assert_same_weights(go_on(tmp_path, lambda step: True), undisturbed)  # no step is left to make


def a_state(*, mixed_precision: bool = False) -> TrainState:
    segmenter = new_segmenter()
    return TrainState(
        segmenter=segmenter,
        average=MovingAverage(segmenter, 0.9),
        optimizer=torch.optim.AdamW([one for _, one in segmenter.named_parameters()]),
        scaler=torch.amp.GradScaler("cpu", enabled=mixed_precision, init_scale=4.0),
    )


def test_the_scaler_of_mixed_precision_comes_back() -> None:
    state = a_state(mixed_precision=True)
    state.scaler.scale(torch.ones(()))
    taken = take_snapshot(3, state)
    state.scaler.update(32.0)
    restore_snapshot(taken, state)
    assert state.scaler.get_scale() == 4.0


def a_snapshot(step: int) -> Snapshot:
    return Snapshot(step=step, tensors={"model.weight": torch.full((4,), float(step))}, scaler={})


def saved(folder: Path, *steps: int, keep: int = 2) -> Checkpoints:
    checkpoints = in_folder(folder, keep=keep)
    for step in steps:
        checkpoints.save(a_snapshot(step))
    checkpoints.wait()
    return checkpoints


@pytest.mark.parametrize("keep", [1, 3])
def test_the_last_ones_are_kept(keep: int, tmp_path: Path) -> None:
    saved(tmp_path, 10, 20, 30, 100, keep=keep)
    kept = sorted(folder.name for folder in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-000000010", "step-000000020", "step-000000030", "step-000000100"][-keep:]


@pytest.mark.parametrize("damage", ["no json", "no tensors", "half of the tensors", "half of the json", "another's"])
def test_a_torn_one_is_not_taken(damage: str, tmp_path: Path) -> None:
    saved(tmp_path, 10, 20)
    torn = tmp_path / "checkpoints" / "step-000000020"
    file = torn / (STEP_FILE if "json" in damage else TENSORS_FILE)
    if damage.startswith("no "):
        file.unlink()
    elif damage.startswith("half"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        (torn / STEP_FILE).write_text((torn / STEP_FILE).read_text().replace("ours", "theirs"))
    found = in_folder(tmp_path).load_latest()
    assert found is not None
    assert found.step == 10
    assert found.tensors["model.weight"].tolist() == [10.0] * 4
    saved(tmp_path, 12)  # the next attempt
    assert not torn.exists()
    assert in_folder(tmp_path).last_step() == 12


def test_none_where_nothing_was_saved(tmp_path: Path) -> None:
    assert in_folder(tmp_path).load_latest() is None
    saved(tmp_path, 10)
    assert in_folder(tmp_path, identity="another").load_latest() is None


def test_writing_holds_up_the_next_checkpoint_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, may_write = module.commit_bytes, threading.Event()

    def slow(uri: str, content: bytes) -> None:
        assert may_write.wait(timeout=30)
        write(uri, content)

    monkeypatch.setattr(module, "commit_bytes", slow)
    checkpoints = in_folder(tmp_path)
    checkpoints.save(a_snapshot(10))
    assert checkpoints.last_step() is None
    second = threading.Thread(target=checkpoints.save, args=(a_snapshot(20),))
    second.start()
    second.join(timeout=0.2)
    assert second.is_alive(), "one is in flight at a time"
    may_write.set()
    second.join(timeout=30)
    checkpoints.wait()
    assert checkpoints.last_step() == 20


def test_a_snapshot_does_not_change_with_the_model() -> None:
    state = a_state()
    segmenter, taken = state.segmenter, take_snapshot(1, state)
    name = next(name for name, _ in segmenter.named_parameters())
    before = taken.tensors[f"model.{name}"].clone()
    with torch.no_grad():
        dict(segmenter.named_parameters())[name].add_(1)
        state.average.state[name].add_(1)
    assert torch.equal(taken.tensors[f"model.{name}"], before)
    assert torch.equal(taken.tensors[f"average.{name}"], before)


def test_a_disk_that_fails_ends_the_training_at_the_next_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(uri: str, content: bytes) -> None:
        raise StorageError(f"{uri}: the disk is full")

    monkeypatch.setattr(module, "commit_bytes", full)
    checkpoints = in_folder(tmp_path)
    with pytest.raises(StorageError, match=r"step-000000002/training\.safetensors: the disk is full"):
        train(new_segmenter(), JOB, TrainContext(save=checkpoints.save))
