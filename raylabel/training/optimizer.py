"""The optimizer of a training: which parameter learns how fast, and how the rate changes over the steps."""

import math
from collections.abc import Mapping

import torch

from raylabel.config import OptimizerConfig
from raylabel.models.segmenter import Segmenter
from raylabel.training.job import TrainJob

BACKBONE = "backbone"
NECK = "fpn"
"""The pyramid that a detector adds on top of its backbone: it learns as fast as the heads."""


def learning_rate(step: int, job: TrainJob) -> float:
    """Peak rate times the schedule's share at a step of all `steps`, times a linear warm-up from `start_step`."""
    optimizer = job.settings.optimizer
    num_warmup = min(optimizer.warmup_steps, (job.steps - job.start_step) // 4)
    warmup = min(1.0, (step - job.start_step + 1) / max(1, num_warmup))
    return optimizer.learning_rate * warmup * scheduled_share(step / job.steps, optimizer)


def scheduled_share(progress: float, settings: OptimizerConfig) -> float:
    """Share of the peak rate, in (0, 1], after a share of the steps in [0, 1].

    `cosine` falls from 1 to `final_share`; `multistep` is `final_share ** (passed / all milestones)`, so that two
    milestones to a hundredth are the usual tenth each.
    """
    if settings.schedule == "cosine":
        return settings.final_share + (1 - settings.final_share) * 0.5 * (1 + math.cos(math.pi * progress))
    if settings.schedule == "multistep" and settings.milestones:
        passed = sum(progress >= milestone for milestone in settings.milestones)
        return settings.final_share ** (passed / len(settings.milestones))
    return 1.0


def build_optimizer(segmenter: Segmenter, settings: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over the parameters that want a gradient; `set_learning_rate` gives each its part of the rate.

    Parameters are grouped by their part of the rate, and by whether they are decayed: biases and the gains of norms
    (one-dimensional parameters) are not.
    """
    factors = rate_factors(segmenter, settings)
    groups: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in segmenter.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((factors[name], parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "rate_factor": factor, "weight_decay": settings.weight_decay if is_decayed else 0.0}
            for (factor, is_decayed), parameters in groups.items()
        ],
        lr=settings.learning_rate,
        # On GPUs torch chooses well by itself.
        fused=True if all(one.device.type == "cpu" for _, one in segmenter.named_parameters()) else None,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the heads' rate, and every other parameter's part of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"]


def rate_factors(segmenter: Segmenter, settings: OptimizerConfig) -> dict[str, float]:
    """Part of the learning rate of each parameter: 1 outside of the backbone; in its layer l of L, counted from the
    image, `backbone_rate * layer_decay ** (L - l)`, so the last layer (l = L - 1) is decayed once."""
    layers = backbone_layers(segmenter)
    num_layers = 1 + max(layers.values(), default=0)
    return {
        name: settings.backbone_rate * settings.layer_decay ** (num_layers - layers[name]) if name in layers else 1.0
        for name, _ in segmenter.named_parameters()
    }


def backbone_layers(segmenter: Segmenter) -> Mapping[str, int]:
    """Layer of each parameter of the backbone, counted from 0 at the image.

    A family says it by a method of this name. By default the backbone is what is called `backbone.`, without the
    pyramid on top of it, and its layers are its numbered blocks (`backbone.body.layer1.0`), in their order; what is
    outside of numbered blocks (`backbone.body.conv1`) is a layer by its module.
    """
    own = getattr(segmenter, "backbone_layers", None)
    if own is not None:
        return own()
    layer_of_block: dict[tuple[str, ...], int] = {}
    layers = {}
    for name, _ in segmenter.named_parameters():
        parts = name.split(".")
        if parts[0] != BACKBONE or parts[1] == NECK:
            continue
        number = next((place for place, part in enumerate(parts) if part.isdigit()), len(parts) - 2)
        layers[name] = layer_of_block.setdefault(tuple(parts[: number + 1]), len(layer_of_block))
    return layers
