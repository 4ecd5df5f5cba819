"""The optimizer of a training: the learning rate of each step and of each parameter."""

import math
from collections.abc import Mapping

import torch

from raylabel.config import OptimizerConfig
from raylabel.models.segmenter import Segmenter
from raylabel.training.job import TrainJob

BACKBONE = "backbone"
NECK = "fpn"
"""The feature pyramid on top of a detector's backbone. It learns as fast as the heads."""


def learning_rate(step: int, job: TrainJob) -> float:
    """Compute the rate of a step: peak rate times share of the schedule times linear warm-up from `start_step`."""
    optimizer = job.settings.optimizer
    num_warmup = min(optimizer.warmup_steps, (job.steps - job.start_step) // 4)
    warmup = min(1.0, (step - job.start_step + 1) / max(1, num_warmup))
    return optimizer.learning_rate * warmup * scheduled_share(step / job.steps, optimizer)


def scheduled_share(progress: float, settings: OptimizerConfig) -> float:
    """Compute the share of the peak rate, in (0, 1], after a share `progress` of the steps, in [0, 1].

    `cosine` falls from 1 to `final_share`. `multistep` is `final_share ** (passed / all milestones)`. So two
    milestones and a final share of 0.01 divide the rate by the usual 10 at each milestone.
    """
    if settings.schedule == "cosine":
        return settings.final_share + (1 - settings.final_share) * 0.5 * (1 + math.cos(math.pi * progress))
    if settings.schedule == "multistep" and settings.milestones:
        passed = sum(progress >= milestone for milestone in settings.milestones)
        return settings.final_share ** (passed / len(settings.milestones))
    return 1.0


def build_optimizer(segmenter: Segmenter, settings: OptimizerConfig) -> torch.optim.AdamW:
    """Build AdamW over the parameters that require a gradient. `set_learning_rate` sets the rate of each group.

    Parameters are grouped by their rate factor and by weight decay. One-dimensional parameters (biases, gains of norms)
    are not decayed.
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
        # None on GPUs, because torch chooses well there.
        fused=True if all(one.device.type == "cpu" for _, one in segmenter.named_parameters()) else None,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of the heads, and the rate of every other group by its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"]


def rate_factors(segmenter: Segmenter, settings: OptimizerConfig) -> dict[str, float]:
    """Compute the factor of each parameter's learning rate, by parameter name.

    The factor is 1 outside the backbone. In backbone layer l of L, counted from 0 at the image, it is
    `backbone_rate * layer_decay ** (L - l)`. So the last layer (l = L - 1) is decayed once.
    """
    layers = backbone_layers(segmenter)
    num_layers = 1 + max(layers.values(), default=0)
    return {
        name: settings.backbone_rate * settings.layer_decay ** (num_layers - layers[name]) if name in layers else 1.0
        for name, _ in segmenter.named_parameters()
    }


def backbone_layers(segmenter: Segmenter) -> Mapping[str, int]:
    """Number the layers of the backbone from 0 at the image, by parameter name.

    A model family can define a method of this name. By default the backbone is every parameter under `backbone.`
    except the feature pyramid. Its layers are its numbered blocks (`backbone.body.layer1.0`), in their order. Each
    module outside the numbered blocks (`backbone.body.conv1`) is a layer too.
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
