"""Checkpoints of a training: everything that the next step depends on, as safetensors and JSON.

A checkpoint holds no random state, data position or learning rate, because these follow from the seed and the step.
"""

import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from raylabel.files.committing import commit_bytes
from raylabel.files.json_files import commit_json
from raylabel.files.moving import remove
from raylabel.files.paths import join
from raylabel.files.reading import list_files, read_bytes
from raylabel.models.segmenter import Segmenter
from raylabel.training.ema import MovingAverage

TENSORS_FILE = "training.safetensors"
STEP_FILE = "training.json"
"""Marks a complete checkpoint: it is written last and removed first."""


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """The objects that training changes. The optimizer's state per parameter must consist of tensors."""

    segmenter: Segmenter
    average: MovingAverage
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A copy of the training state after a step.

    Attributes:
        step: number of finished steps.
        tensors: `model.*`, `average.*` and `optimizer.FIELD.*`, on the CPU.
        scaler: state of the gradient scaler of mixed precision, as JSON values.
    """

    step: int
    tensors: Mapping[str, Tensor]
    scaler: dict[str, Any]


def take_snapshot(step: int, state: TrainState) -> Snapshot:
    """Copy the state to the CPU. Training can continue as soon as this returns."""
    tensors = {
        **{f"model.{name}": value for name, value in state.segmenter.state_dict().items()},
        **{f"average.{name}": value for name, value in state.average.state.items()},
        **{
            f"optimizer.{field}.{name}": value
            for name, parameter in state.segmenter.named_parameters()
            for field, value in state.optimizer.state.get(parameter, {}).items()
        },
    }
    copies = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    return Snapshot(step=step, tensors=copies, scaler=state.scaler.state_dict())


def restore_snapshot(snapshot: Snapshot, state: TrainState) -> None:
    """Copy a snapshot into the state in place. The state keeps its devices."""
    tensors = snapshot.tensors
    state.segmenter.load_state_dict(_below("model.", tensors))
    for name, value in _below("average.", tensors).items():
        state.average.state[name].copy_(value)
    fields: dict[str, dict[str, Tensor]] = {}
    for key, value in _below("optimizer.", tensors).items():
        field, _, name = key.partition(".")
        fields.setdefault(name, {})[field] = value
    names = {parameter: name for name, parameter in state.segmenter.named_parameters()}
    order = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
    of_places = {
        # empty_like, because moments must have the memory layout of their parameter.
        place: {
            field: torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
            for field, value in fields[names[parameter]].items()
        }
        for place, parameter in enumerate(order)
        if names[parameter] in fields
    }
    state.optimizer.load_state_dict(state.optimizer.state_dict() | {"state": of_places})
    state.scaler.load_state_dict(snapshot.scaler)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


class Checkpoints:
    """The latest checkpoints of one training. A thread writes them, one at a time.

    Args:
        uri: folder or URI with one subfolder per checkpoint.
        identity: identifies the training. Checkpoints with another identity are ignored.
        keep: number of checkpoints to keep, at least 1.
    """

    def __init__(self, uri: str, *, identity: str, keep: int) -> None:
        self._uri, self._identity, self._keep = uri, identity, keep
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._writing: Future[None] | None = None

    def save(self, snapshot: Snapshot) -> None:
        """Start to write a checkpoint, once the previous one is written.

        Raises:
            StorageError: the previous checkpoint could not be written.
        """
        self.wait()
        self._writing = self._thread.submit(self._write, snapshot)

    def wait(self) -> None:
        """Wait until the checkpoint in progress is written.

        Raises:
            StorageError: the checkpoint could not be written.
        """
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def last_step(self) -> int | None:
        """Return the step of the newest checkpoint without reading the checkpoint, or None if there is none."""
        return next(iter(self._steps()), None)

    def load_latest(self) -> Snapshot | None:
        """Load the newest complete checkpoint, or return None."""
        return next((found for step in self._steps() if (found := self.load(step))), None)

    def load(self, step: int) -> Snapshot | None:
        """Load the checkpoint of a step. None if it is missing, incomplete, or of another training."""
        folder = self._folder(step)
        try:
            about = json.loads(read_bytes(join(folder, STEP_FILE)))
            if about["identity"] != self._identity:
                return None
            tensors = load(read_bytes(join(folder, TENSORS_FILE)))
        except (FileNotFoundError, SafetensorError, json.JSONDecodeError):
            return None
        return Snapshot(step=about["step"], tensors=tensors, scaler=about["scaler"])

    def _write(self, snapshot: Snapshot) -> None:
        folder = self._folder(snapshot.step)
        commit_bytes(join(folder, TENSORS_FILE), save(dict(snapshot.tensors)))
        about = {"step": snapshot.step, "identity": self._identity, "scaler": snapshot.scaler}
        commit_json(join(folder, STEP_FILE), about)
        self._prune(snapshot.step)

    def _prune(self, newest: int) -> None:
        """Remove older checkpoints, and later ones, because an earlier attempt may have left them incomplete."""
        own = [step for step in self._steps() if step <= newest][: self._keep]
        for step in set(self._steps(of_file="")) - set(own):
            remove(join(self._folder(step), STEP_FILE))
            remove(self._folder(step))

    def _steps(self, of_file: str = STEP_FILE) -> list[int]:
        """List the steps whose folders hold a file with this ending, newest first."""
        names = {info.path.split("/")[-2] for info in list_files(self._uri, suffix=of_file, recursive=True)}
        return sorted((int(name.removeprefix("step-")) for name in names if name.startswith("step-")), reverse=True)

    def _folder(self, step: int) -> str:
        return join(self._uri, f"step-{step:09d}")
