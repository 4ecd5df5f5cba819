"""Learning rates over the steps and per layer."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from raylabel.config import OptimizerConfig, TrainingConfig
from raylabel.models.build import build_segmenter
from raylabel.training.job import TrainJob
from raylabel.training.optimizer import (
    backbone_layers,
    build_optimizer,
    learning_rate,
    rate_factors,
    scheduled_share,
    set_learning_rate,
)


def a_job(steps: int = 1000, **changes: object) -> TrainJob:
    settings = TrainingConfig(optimizer=OptimizerConfig(**{"learning_rate": 1.0, **changes}))
    return TrainJob(settings=settings, steps=steps, labelled=SimpleNamespace(), labelled_per_batch=1)


def test_cosine_warms_up_and_falls_to_its_final_share() -> None:
    rates = [learning_rate(step, a_job()) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 50, rel=1e-3)
    assert max(rates) == pytest.approx(1.0, abs=0.01)
    assert rates[500] == pytest.approx(0.505, abs=1e-6)  # halfway down from 1 to 0.01
    assert rates[-1] == pytest.approx(0.01, abs=1e-4)
    assert learning_rate(400, replace(a_job(), start_step=400)) == pytest.approx(rates[400] / 50)


@pytest.mark.parametrize(
    ("schedule", "step", "rate"),
    [
        # Two milestones to a final share of 0.01: each divides the rate by 10.
        ({"schedule": "multistep", "milestones": (0.5, 0.75)}, 499, 1.0),
        ({"schedule": "multistep", "milestones": (0.5, 0.75)}, 500, 0.1),
        ({"schedule": "multistep", "milestones": (0.5, 0.75)}, 749, 0.1),
        ({"schedule": "multistep", "milestones": (0.5, 0.75)}, 750, 0.01),
        ({"schedule": "multistep", "milestones": (0.9,), "final_share": 0.3}, 999, 0.3),
        ({"schedule": "multistep", "milestones": ()}, 999, 1.0),
        ({"schedule": "constant"}, 999, 1.0),
        ({"schedule": "constant"}, 49, 1.0),
        ({"schedule": "constant"}, 24, 0.5),
        ({"schedule": "constant", "warmup_steps": 0}, 0, 1.0),
        # Warm-up takes a quarter of the 1000 steps at most.
        ({"schedule": "constant", "warmup_steps": 5000}, 124, 0.5),
        ({"schedule": "cosine", "final_share": 1.0}, 999, 1.0),
    ],
)
def test_rates_by_hand(schedule: dict[str, object], step: int, rate: float) -> None:
    assert learning_rate(step, a_job(**schedule)) == pytest.approx(rate)


@given(
    progress=st.floats(0, 1),
    schedule=st.sampled_from(["cosine", "multistep", "constant"]),
    final_share=st.floats(0.001, 1),
)
def test_the_share_stays_between_its_final_value_and_1(progress: float, schedule: str, final_share: float) -> None:
    settings = OptimizerConfig(schedule=schedule, final_share=final_share)
    assert final_share - 1e-12 <= scheduled_share(progress, settings) <= 1


class Detector(nn.Module):
    """A model whose parameters are named as in torchvision's detectors."""

    def __init__(self) -> None:
        super().__init__()
        body = nn.ModuleDict({"conv1": nn.Conv2d(3, 2, 1), "layer1": nn.ModuleList([nn.Conv2d(2, 2, 1) for _ in "ab"])})
        self.backbone = nn.ModuleDict({"body": body, "fpn": nn.Linear(1, 1)})
        self.head = nn.Linear(2, 2)


def test_layers_are_counted_from_the_image_and_their_rates_by_hand() -> None:
    detector = Detector()
    layers = backbone_layers(detector)
    assert {name.removesuffix(".weight"): layer for name, layer in layers.items() if name.endswith("weight")} == {
        "backbone.body.conv1": 0,
        "backbone.body.layer1.0": 1,
        "backbone.body.layer1.1": 2,
    }
    settings = OptimizerConfig(learning_rate=2.0, backbone_rate=0.1, layer_decay=0.5, weight_decay=0.3)
    factors = rate_factors(detector, settings)
    assert factors["backbone.body.conv1.bias"] == pytest.approx(0.1 * 0.5**3)
    assert factors["backbone.body.layer1.0.weight"] == pytest.approx(0.1 * 0.5**2)
    assert factors["backbone.body.layer1.1.weight"] == pytest.approx(0.1 * 0.5)
    assert factors["backbone.fpn.weight"] == factors["head.weight"] == 1.0
    optimizer = build_optimizer(detector, settings)
    set_learning_rate(optimizer, 2.0)
    rates = {parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert rates.keys() == set(detector.parameters())
    assert rates[detector.head.weight] == 2.0
    assert rates[dict(detector.named_parameters())["backbone.body.conv1.weight"]] == pytest.approx(0.025)


def test_a_frozen_backbone_stays_while_the_heads_learn() -> None:
    detector = Detector()
    before = {name: value.clone() for name, value in detector.named_parameters()}
    optimizer = build_optimizer(detector, OptimizerConfig(backbone_rate=0.0))
    set_learning_rate(optimizer, 0.1)
    torch.stack([one.square().sum() for one in detector.parameters()]).sum().backward()
    optimizer.step()
    for name, value in detector.named_parameters():
        assert torch.equal(value, before[name]) == name.startswith("backbone.body"), name


def test_a_family_says_itself_what_its_backbone_is() -> None:
    detector = Detector()
    detector.backbone_layers = lambda: {"head.weight": 0}
    factors = rate_factors(detector, OptimizerConfig(backbone_rate=0.5))
    assert factors.pop("head.weight") == 0.5
    assert set(factors.values()) == {1.0}


def test_norms_and_biases_are_not_decayed() -> None:
    segmenter = build_segmenter("tiny_maskrcnn", num_classes=2)
    groups = build_optimizer(segmenter, OptimizerConfig(weight_decay=0.3, layer_decay=0.9)).param_groups
    for group in groups:
        assert all((one.ndim > 1) == (group["weight_decay"] == 0.3) for one in group["params"])
    assert {group["weight_decay"] for group in groups} == {0.0, 0.3}
    assert sum(len(group["params"]) for group in groups) == len(list(segmenter.named_parameters()))
