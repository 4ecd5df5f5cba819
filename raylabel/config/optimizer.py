"""Settings of the optimizer of teacher and student."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from raylabel.config.constraints import STRICT, NonNegative, NonNegativeInt, Positive, PositiveInt

ScheduleKind = Literal["cosine", "multistep", "constant"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
ShareOfSteps = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimizerConfig:
    """AdamW, its learning rate and precision (docs/training.md)."""

    learning_rate: Positive = 0.002
    """Peak learning rate."""
    weight_decay: NonNegative = 0.01
    """Decoupled weight decay; biases and gains of norms are not decayed."""
    backbone_rate: NonNegative = 1.0
    """Factor on the backbone's rate; 0 freezes it."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the rate for each layer of the backbone, counted from the heads towards the image; 1 is off."""
    schedule: ScheduleKind = "cosine"
    """How the rate falls over all steps: by a cosine, at `milestones`, or not at all."""
    milestones: tuple[ShareOfSteps, ...] = (0.667, 0.889)
    """Shares of the steps at which `multistep` lowers the rate, by the same factor each time."""
    final_share: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Share of the peak rate at the end of `cosine` and after the last milestone of `multistep`."""
    warmup_steps: NonNegativeInt = 50
    """Steps of linear warm-up; at most a quarter of the steps."""
    max_gradient_norm: Positive | None = 5.0
    """Gradients of a larger norm over all parameters are scaled down to it; null never does."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay of the moving average of the weights, which is what is saved; ramped up over the first steps."""
    accumulate: PositiveInt = 1
    """Micro-batches that each worker makes of its part of a step, one after the other, to save memory."""
    precision: Precision = "auto"
    """Number format of the forward pass: `auto` is bf16 on GPUs (fp16 on those without it), fp32 on CPUs; fp16 scales
    the loss."""
    channels_last: bool = False
    """Keep convolutions' tensors in channels-last order, which GPUs with tensor cores like."""
    compile: bool = False
    """Compile the network with torch.compile: slow first steps, faster ones after; needs a C++ compiler."""
