"""The job of a training (what to train, on which data, how long) and its context (where it runs)."""

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

SegmenterBuilder = Callable[[], Segmenter]
"""Builds the model that a training starts from."""

Report = Callable[[int, dict[str, float]], None]
"""Receives the number of finished steps, and the metrics since the last call.

Every rank calls it at the same steps; the last step is one of them. The metrics are the means of `loss`,
`gradient_norm` and each loss term (`labelled_*`, `pool_*`); `learning_rate`; `images_per_second` of all ranks; and
`data_wait`, the share of time in which this rank waited for images. After an evaluation, rank 0 adds `ema_*`.
"""

Evaluate = Callable[[Segmenter], dict[str, float]]
"""Computes figures of a model, such as `AP`. Rank 0 calls it with the moving average as weights, in eval mode."""


@dataclass(frozen=True, kw_only=True)
class TrainContext:
    """The place where a training runs.

    Attributes:
        rank, world_size: index of this rank, and number of ranks.
        num_parts: number of parts of each step's batch: planned workers times steps of gradient accumulation. It does
            not depend on the actual number of ranks, but with more ranks than parts there is one part per rank.
        device: device of the model.
        wrap: wraps a module in DDP, or returns it unchanged.
        report: see `Report`.
        restore: the state to continue from.
        save: receives the state every `checkpoint_every` steps and after the last step, on rank 0 only.
        wants_checkpoint: whether to save after this step as well. Every rank calls it after each step, and it must
            return the same on every rank.
        open_batches: opens the batches for a number of parts and a list of places (step and part). None reads the
            images in this process.
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
    """The data, the schedule and the losses of a training.

    Attributes:
        settings: optimizer, sampling, checkpoints and evaluations.
        steps: length of the learning-rate schedule. Training stops there unless `stop_step` is smaller.
        start_step: first step. Above 0, the model comes from an earlier job of the same schedule.
        stop_step: step at which training stops, if before `steps`.
        labelled: annotated examples.
        labelled_per_batch: labelled images per step, over all ranks.
        pool: pseudo-labelled images in training order.
        unlabelled_per_batch: pool images per step, over all ranks.
        unlabelled_weight: weight of the loss on the pool.
        pool_losses: weight of each loss term on the pool.
        relabel: makes a relabeller from the model and its moving average. The relabeller gets each batch and its step,
            and returns the batch to learn from, with new labels of the pool images.
        evaluate: evaluates the moving average every `settings.evaluate_every` steps; None evaluates nothing.
        seed: seed of every random choice.
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
