"""`frozen_stages` of pretrained bodies: their weights and norms stay, and training leaves them out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from raylabel.config import OptimizerConfig, TrainingConfig
from raylabel.errors import InputError
from raylabel.models.build import build_segmenter
from raylabel.models.saved import load_segmenter, save_segmenter
from raylabel.models.segmenter import Segmenter
from raylabel.training.checkpoints import Snapshot
from raylabel.training.job import TrainContext, TrainJob
from raylabel.training.loop import train
from raylabel.training.optimizer import build_optimizer
from toy_training import NUM_CLASSES, ToyExamples

LITE = "maskrcnn_efficientnet_lite0"
RESNET = "maskrcnn_resnet50_fpn"
BODY = "backbone.body."


def build(model: str, **options: Any) -> Segmenter:
    if model == LITE:
        pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra pretrained")
    torch.manual_seed(0)
    return build_segmenter(model, num_classes=NUM_CLASSES, options=options)


def learnt(segmenter: Segmenter) -> set[str]:
    """Return the names of the layers of the body that learn."""
    assert isinstance(segmenter, nn.Module)
    names = [name.removeprefix(BODY) for name, one in segmenter.named_parameters() if one.requires_grad]
    return {name.rsplit(".", 1)[0] for name in names if not name.startswith(("backbone.", "rpn.", "roi_heads."))}


def is_of_stage(name: str, model: str) -> int:
    """Return the stage of a layer of a body, counted from 1; the stem is 0."""
    parts = name.split(".")
    if model == RESNET:
        return int(parts[0].removeprefix("layer")) if parts[0].startswith("layer") else 0
    if parts[0] != "_blocks":
        return 0
    return 1 + sum(int(parts[1]) >= end for end in (1, 3, 5, 8, 11, 15))


@pytest.mark.parametrize(("model", "num_stages"), [(LITE, 7), (RESNET, 4)])
def test_stages_behind_the_frozen_ones_learn(model: str, num_stages: int) -> None:
    for frozen in range(-1, num_stages + 1):
        stages = {is_of_stage(name, model) for name in learnt(build(model, frozen_stages=frozen))}
        assert stages == set(range(frozen + 1, num_stages + 1))


@pytest.mark.parametrize(("model", "default"), [(LITE, 2), (RESNET, 1)])
def test_the_default_is_what_was_frozen_before_there_was_an_option(model: str, default: int) -> None:
    assert learnt(build(model)) == learnt(build(model, frozen_stages=default))


@pytest.mark.parametrize(("model", "value"), [(LITE, 8), (LITE, -2), (LITE, "two"), (LITE, True), (RESNET, 5)])
def test_other_values_are_refused(model: str, value: Any) -> None:
    with pytest.raises(InputError, match=r"model_options.frozen_stages must be a whole number from -1 .* got "):
        build(model, frozen_stages=value)


def job(num_steps: int = 2) -> TrainJob:
    settings = TrainingConfig(optimizer=OptimizerConfig(weight_decay=0.5, ema_decay=0.9), checkpoint_every=1)
    return TrainJob(settings=settings, steps=num_steps, labelled=ToyExamples(num=2, side=64), labelled_per_batch=1)


def test_training_leaves_frozen_stages_as_they_are(tmp_path: Path) -> None:
    """No gradient, no place in the optimizer, no decay; equal norms and moving averages; an equal model when loaded."""
    options = {"frozen_stages": 4}
    segmenter = build(LITE, **options)
    assert isinstance(segmenter, nn.Module)
    frozen = {name for name, one in segmenter.named_parameters() if not one.requires_grad}
    assert len(frozen) > 10
    optimised = {
        id(one)
        for group in build_optimizer(segmenter, job().settings.optimizer).param_groups
        for one in group["params"]
    }
    assert optimised == {id(one) for _, one in segmenter.named_parameters() if one.requires_grad}

    before = {name: one.clone() for name, one in segmenter.state_dict().items()}
    saved: list[Snapshot] = []
    trained = train(segmenter, job(), TrainContext(save=saved.append))
    assert isinstance(trained, nn.Module)
    assert all(one.grad is None for name, one in trained.named_parameters() if name in frozen)
    norms = {name for name in before if name.startswith(BODY) and "_bn" in name}
    after = trained.state_dict()
    for name in frozen | norms:
        assert torch.equal(after[name], before[name]), name
    body = {name for name in before if name.startswith(BODY)} - frozen - norms
    assert body
    assert not any(torch.equal(after[name], before[name]) for name in body)
    assert not any(name in key for key in saved[0].tensors if key.startswith("optimizer.") for name in frozen)

    resumed = train(build(LITE, **options), job(), TrainContext(restore=saved[0]))
    assert_equal(resumed.state_dict, trained.state_dict)
    save_segmenter(trained, str(tmp_path), {"model": LITE, "model_options": options})
    loaded, _ = load_segmenter(str(tmp_path))
    assert_equal(loaded.state_dict, trained.state_dict)
    assert learnt(loaded) == learnt(trained)


def assert_equal(one: Callable[[], dict[str, torch.Tensor]], other: Callable[[], dict[str, torch.Tensor]]) -> None:
    assert one().keys() == other().keys()
    assert all(torch.equal(value, other()[name]) for name, value in one().items())
