"""What is trained, on what, and where: the job and the context of a training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from raylabel.config import PoolLosses, TrainingConfig
from raylabel.models.segmenter import Segmenter
from raylabel.training.batches import Batch, Batches
from raylabel.training.checkpoints import Snapshot
from raylabel.training.ema import MovingAverage
from raylabel.training.examples import Examples, ExampleStream

Report = Callable[[int, dict[str, float]], None]
"""Called on every rank at the same steps, the last one among them, with finished steps, and mean metrics since the last
call: `loss`, each loss term as `labelled_*` and `pool_*`, `learning_rate`, `gradient_norm`, `images_per_second` of all
ranks, `data_wait` (share of the time in which this rank waited for images); on rank 0 and after an evaluation, its
figures as `ema_*`."""

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
        restore: the state to go on from.
        save: takes the state every `checkpoint_every` steps and after the last one, on the first rank alone.
        wants_checkpoint: asked after each step on every rank, and says the same on all; whether to save now as well.
        open_batches: what gives the batches of so many parts at these places (step and part), in place of reading them
            here.
    """

    rank: int = 0
    world_size: int = 1
    num_parts: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module
    report: Report = lambda step, metrics: None
    restore: Snapshot | None = None
    save: Callable[[Snapshot], None] = lambda snapshot: None
    wants_checkpoint: Callable[[int], bool] = lambda step: False
    open_batches: Callable[[int, Sequence[tuple[int, int]]], Batches] | None = None


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
        pool: pseudo-labelled images, in the order in which they are learnt from.
        unlabelled_per_batch: images of the pool a step over all ranks.
        unlabelled_weight: weight of the loss on the pool.
        pool_losses: weight of each loss term on the pool.
        relabel: makes, of the model and its moving average, what relabels the pool images of a batch, by its step,
            before it is learnt from.
        evaluate: what is made of the moving average every `settings.evaluate_every` steps; None is nothing.
        seed: of every random choice.
    """

    settings: TrainingConfig
    steps: int
    labelled: Examples
    labelled_per_batch: int
    start_step: int = 0
    stop_step: int | None = None
    pool: ExampleStream | None = None
    unlabelled_per_batch: int = 0
    unlabelled_weight: float = 1.0
    pool_losses: PoolLosses = field(default_factory=PoolLosses)
    relabel: Callable[[Segmenter, MovingAverage], Callable[[Batch, int], Batch]] | None = None
    evaluate: Evaluate | None = None
    seed: int = 0
