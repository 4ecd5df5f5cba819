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
    """AdamW, its learning rate and precision. docs/training.md says which values suit which model."""

    learning_rate: Positive = 0.002
    """Peak learning rate. The default suits a model trained from scratch; use 0.0001 to 0.0003 with a pretrained
    backbone."""
    weight_decay: NonNegative = 0.01
    """Decoupled weight decay. Biases and the gains of norms are not decayed."""
    backbone_rate: NonNegative = 1.0
    """Factor on the learning rate of the backbone; 0 freezes it. Use 0.1 for a pretrained CNN."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the learning rate per layer of the backbone, counted from the heads towards the image, in (0, 1]. 1 is
    off. Use 0.8 (small) to 0.95 (large) for a pretrained transformer."""
    schedule: ScheduleKind = "cosine"
    """How the learning rate falls: `cosine` over all steps, `multistep` at `milestones`, `constant` not at all. With
    `constant` the moving average does what a falling rate would do, and the model can be continued."""
    milestones: tuple[ShareOfSteps, ...] = (0.667, 0.889)
    """Shares of the steps, each in (0, 1), at which `multistep` lowers the learning rate, each time by the same
    factor."""
    final_share: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Learning rate at the end of `cosine`, and after the last milestone of `multistep`, as a share of the peak, in
    (0, 1]."""
    warmup_steps: NonNegativeInt = 50
    """Steps of the linear warm-up of the learning rate. At most a quarter of all steps are used."""
    max_gradient_norm: Positive | None = 5.0
    """Largest norm of the gradients over all parameters; larger gradients are scaled down to it. null never scales. Use
    0.01 for Mask2Former."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9998
    """Decay of the moving average of the weights per step, in [0, 1). The average is the model that is saved, labels
    the pool and is evaluated. After n steps it looks back over about n / 9 steps, at most 1 / (1 - `ema_decay`). So the
    default suits short trainings as well as long ones; it limits those of more than 45,000 steps."""
    accumulate: PositiveInt = 1
    """Micro-batches into which each worker cuts its part of a step. Raise it to save memory; the batch of the step
    stays the same."""
    precision: Precision = "auto"
    """Number format of the forward pass. `auto` is bf16 on GPUs (fp16 on GPUs without bf16) and fp32 on CPUs. fp16
    scales the loss."""
    channels_last: bool = False
    """Keep the tensors of convolutions in channels-last order. Speeds up CNNs, most on GPUs with tensor cores. A
    network that reshapes by `view` may refuse it."""
    compile: bool = False
    """Compile the network (in Mask R-CNNs: the backbone) with torch.compile. The first steps take minutes, later ones
    are faster: of use for long trainings on GPUs. Needs a C++ compiler."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TeacherOptimizerConfig(OptimizerConfig):
    """The optimizer of the teacher. The student continues from the teacher, so the teacher's rate does not fall."""

    learning_rate: Positive = 0.003
    """Learning rate. The default suits a model trained from scratch; use 0.0001 to 0.0003 with a pretrained
    backbone."""
    schedule: ScheduleKind = "constant"
    """See `OptimizerConfig.schedule`."""
