"""What is trained, on what, and where: the job and the context of a training."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from raylabel.config import PoolLosses, TrainingConfig
from raylabel.models.protocols import Segmenter
from raylabel.training.examples import Examples

Report = Callable[[int, dict[str, float], Callable[[Path], None] | None], None]
"""Called on every rank at the same steps with: finished steps; mean metrics since the last call (`loss`, each loss term
as `labelled_*` and `pool_*`, `learning_rate`, `gradient_norm`; on rank 0 and after an evaluation, its figures as
`ema_*`); and, every `checkpoint_every` steps and at the end, a
function that writes a checkpoint into an existing local folder, to be called by rank 0."""

Evaluate = Callable[[Segmenter], dict[str, float]]
"""Figures of a model, such as `AP`; called on rank 0 only, in eval mode, with the moving average as weights."""


@dataclass(frozen=True, kw_only=True)
class TrainContext:
    """Where a training runs.

    Attributes:
        rank, world_size: this worker among all.
        num_parts: into so many parts the batch of a step is cut, whatever the number of workers: one for each planned
            worker, times the steps of gradient accumulation. More workers than parts cut it finer.
        device: of the model.
        wrap: puts a module into DDP, or leaves it.
        report: see Report.
        restore: folder of a checkpoint to go on from.
    """

    rank: int = 0
    world_size: int = 1
    num_parts: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module
    report: Report = lambda step, metrics, write: None
    restore: Path | None = None


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """What is trained on what, and for how long.

    Attributes:
        settings: optimizer, sampling, checkpoints, evaluations.
        steps: length of the learning-rate schedule, and where training stops unless `stop_step` says so.
        start_step: where it starts; the model then comes from an earlier job of the same schedule.
        stop_step: where it stops, if before `steps`.
        labelled: examples with annotations.
        labelled_per_batch: images a step over all ranks.
        pool: pseudo-labelled examples.
        unlabelled_per_batch: images of the pool a step over all ranks.
        unlabelled_weight: weight of the loss on the pool.
        pool_losses: weight of each loss term on the pool.
        evaluate: what is made of the moving average every `settings.evaluate_every` steps; None is nothing.
        seed: of every random choice.
    """

    settings: TrainingConfig
    steps: int
    labelled: Examples
    labelled_per_batch: int
    start_step: int = 0
    stop_step: int | None = None
    pool: Examples | None = None
    unlabelled_per_batch: int = 0
    unlabelled_weight: float = 1.0
    pool_losses: PoolLosses = field(default_factory=PoolLosses)
    evaluate: Evaluate | None = None
    seed: int = 0
