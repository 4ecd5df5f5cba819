"""Checkpoints of a training: everything that the next step depends on, as safetensors and JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from raylabel.models.protocols import Segmenter
from raylabel.training.ema import MovingAverage

TENSORS_FILE = "training.safetensors"
STEP_FILE = "training.json"
ADAM_FIELDS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """What training changes; the optimizer is an Adam over the segmenter's parameters."""

    segmenter: Segmenter
    average: MovingAverage
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler


def write_checkpoint(folder: Path, *, step: int, state: TrainState) -> None:
    """Write the state after `step` finished steps into an existing local folder."""
    tensors = {
        **{f"model.{name}": value for name, value in state.segmenter.state_dict().items()},
        **{f"average.{name}": value for name, value in state.average.state.items()},
        **{
            f"optimizer.{field}.{name}": state.optimizer.state[parameter][field]
            for name, parameter in state.segmenter.named_parameters()
            for field in state.optimizer.state.get(parameter, {})
        },
    }
    save_file(
        {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}, folder / TENSORS_FILE
    )
    (folder / STEP_FILE).write_text(json.dumps({"step": step, "scaler": state.scaler.state_dict()}), encoding="utf-8")


def read_checkpoint(folder: Path, state: TrainState) -> int:
    """Restore the state in place, on the devices where it is; returns the number of finished steps."""
    progress = json.loads((folder / STEP_FILE).read_text(encoding="utf-8"))
    tensors = load_file(folder / TENSORS_FILE)
    state.segmenter.load_state_dict(_below("model.", tensors))
    for name, value in _below("average.", tensors).items():
        state.average.state[name].copy_(value)
    for name, parameter in state.segmenter.named_parameters():
        names = {field: f"optimizer.{field}.{name}" for field in ADAM_FIELDS}
        state.optimizer.state[parameter] = {
            # Adam's step counters stay on the CPU; its moments lie in memory as their parameter does.
            field: tensors[stored] if field == "step" else torch.empty_like(parameter).copy_(tensors[stored])
            for field, stored in names.items()
            if stored in tensors
        }
    state.scaler.load_state_dict(progress["scaler"])
    return progress["step"]


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
