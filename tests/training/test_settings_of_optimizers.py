"""Every setting of the optimizer acts on a training."""

from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from raylabel.config import OptimizerConfig, TrainingConfig
from raylabel.models.segmenter import Target
from raylabel.training.checkpoints import Snapshot
from raylabel.training.job import TrainContext
from raylabel.training.loop import train
from toy_training import NUM_CLASSES, a_job


class Layered(torch.nn.Module):
    """A model with a backbone of two layers and a head. It keeps how its passes were made."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.num_classes = NUM_CLASSES
        self.backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 3))
        self.head = torch.nn.Linear(4, 1)
        self.passes: list[tuple[int, torch.dtype, bool]] = []

    def losses(self, images: list[Tensor], targets: list[Target], *, terms: frozenset[str] = frozenset()) -> dict:
        features = self.backbone(torch.stack(images))
        in_memory = self.backbone[1].weight.is_contiguous(memory_format=torch.channels_last)
        self.passes.append((len(images), features.dtype, in_memory))
        return {"classes": 100 * self.head(features.amax(dim=(2, 3))).float().square().mean()}


OF_OPTIMIZER: dict[str, tuple[Any, set[str]]] = {
    "learning_rate": (0.02, {"rates", "head", "backbone", "average"}),
    "weight_decay": (0.5, {"head", "backbone", "average"}),
    "backbone_rate": (0.1, {"head", "backbone", "average"}),
    "layer_decay": (0.5, {"head", "backbone", "average"}),
    "schedule": ("constant", {"rates", "head", "backbone", "average"}),
    "milestones": ((0.25,), {"rates", "head", "backbone", "average"}),
    "final_share": (0.5, {"rates", "head", "backbone", "average"}),
    "warmup_steps": (0, {"rates", "head", "backbone", "average"}),
    "max_gradient_norm": (0.5, {"head", "backbone", "average"}),
    "ema_decay": (0.0, {"average"}),
    "precision": ("bf16", {"dtype", "head", "backbone", "average"}),
    "channels_last": (True, {"layout"}),
    "compile": (True, {"compiled"}),
}
"""Setting of the optimizer -> another value, and the parts of a training that it changes."""


def trained_with(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> dict[str, Any]:
    base = {
        "learning_rate": 0.01,
        "schedule": "multistep",
        "milestones": (0.5,),
        "warmup_steps": 2,
        "precision": "fp32",
    }
    rates: list[float] = []
    saved: list[Snapshot] = []
    compiled: list[Any] = []
    monkeypatch.setattr("raylabel.training.loop.REPORT_EVERY_STEPS", 1)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **_: compiled.append(type(self)))
    segmenter = Layered()
    job = a_job(
        settings=TrainingConfig(optimizer=OptimizerConfig(**{**base, **changes})),
        steps=8,
        labelled_per_batch=2,
        unlabelled_per_batch=0,
        pool=None,
    )
    context = TrainContext(report=lambda step, values: rates.append(values["learning_rate"]), save=saved.append)
    average = train(segmenter, job, context).state_dict()
    tensors = saved[-1].tensors
    return {
        "rates": rates,
        "head": tensors["model.head.weight"].tolist(),
        "backbone": tensors["model.backbone.0.weight"].tolist(),
        "average": average["head.weight"].tolist(),
        "dtype": {dtype for _, dtype, _ in segmenter.passes},
        "layout": {in_memory for _, _, in_memory in segmenter.passes},
        "compiled": compiled,
    }


@pytest.mark.parametrize("setting", OF_OPTIMIZER)
def test_every_setting_of_the_optimizer_acts(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value, parts = OF_OPTIMIZER[setting]
    before, after = trained_with(monkeypatch), trained_with(monkeypatch, **{setting: value})
    exact = {part for part in before if before[part] != after[part]}
    rounding = {"head", "backbone", "average"} if setting == "channels_last" else set()
    assert exact - rounding == parts


def test_no_setting_of_the_optimizer_is_left_out() -> None:
    """The worker cuts a step into its micro-batches."""
    assert {field.name for field in fields(OptimizerConfig)} == OF_OPTIMIZER.keys() | {"accumulate"}
