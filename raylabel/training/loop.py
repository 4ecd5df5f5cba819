"""The training loop of teacher and student."""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raylabel.errors import TrainingError
from raylabel.models.segmenter import LOSS_TERMS, Segmenter
from raylabel.training.batch_source import BatchSource
from raylabel.training.batches import Batch, step_seed
from raylabel.training.checkpoints import TrainState, restore_snapshot, take_snapshot
from raylabel.training.ema import MovingAverage
from raylabel.training.job import TrainContext, TrainJob
from raylabel.training.network import autocast_dtype, prepare_network
from raylabel.training.optimizer import build_optimizer, learning_rate, set_learning_rate
from raylabel.training.prefetch import Prefetched

__all__ = ["TrainContext", "TrainJob", "train"]

REPORT_EVERY_STEPS = 10
MAX_IDS_NAMED = 64


def train(segmenter: Segmenter, job: TrainJob, context: TrainContext) -> Segmenter:
    """Train a model in place. Returns it in eval mode, with the moving average as its weights.

    A step depends only on its number, the seed and the state before it. So a restored training ends with the same
    weights as an undisturbed one. The batch of a step is cut into the same parts for any number of ranks up to
    `context.num_parts`. Each rank passes its parts through the model one by one and sums their gradients. Fewer ranks
    take longer but learn the same, up to the order in which floats are added.

    Args:
        segmenter: the model, equal on every rank.
        job: data and schedule.
        context: the place where this rank runs.

    Raises:
        InputError: an image cannot be read.
        TrainingError: the loss or a gradient is not finite. The message names the step, the loss terms and the images.
    """
    settings = job.settings.optimizer
    prepare_network(segmenter.to(context.device), settings)
    optimizer = build_optimizer(segmenter, settings)
    average = MovingAverage(segmenter, settings.ema_decay)
    amp_dtype = autocast_dtype(settings.precision, context.device)
    scaler = torch.amp.GradScaler(context.device.type, enabled=amp_dtype == torch.float16)
    max_norm = settings.max_gradient_norm or math.inf
    state = TrainState(segmenter=segmenter, average=average, optimizer=optimizer, scaler=scaler)
    step = job.start_step
    if context.restore is not None:
        restore_snapshot(context.restore, state)
        step = context.restore.step
    stop_step = job.steps if job.stop_step is None else min(job.stop_step, job.steps)
    segmenter.train()
    losses_of = context.wrap(BatchLosses(segmenter, job, context.world_size))
    num_parts = max(context.world_size, context.num_parts)
    parts = np.array_split(np.arange(num_parts), context.world_size)[context.rank].tolist()
    metrics, pace = _Means(), _Pace(job.labelled_per_batch + job.unlabelled_per_batch)
    relabel = job.relabel(segmenter, average) if job.relabel else lambda batch, step: batch
    places = [(step, part) for step in range(step, stop_step) for part in parts]
    source = context.open_batches(num_parts, places) if context.open_batches else BatchSource(job, num_parts)
    with Prefetched(source, places) as batches:
        pace.start(step)
        while step < stop_step:
            rate = learning_rate(step, job)
            set_learning_rate(optimizer, rate)
            optimizer.zero_grad(set_to_none=True)
            loss, image_ids = 0.0, list[str]()
            for part in parts:
                batch = relabel(batches.take().to(context.device), step)
                torch.manual_seed(step_seed(job.seed, step, part))
                with _synchronised(losses_of, part == parts[-1]):
                    with torch.autocast(context.device.type, dtype=amp_dtype, enabled=amp_dtype is not None):
                        losses = losses_of(batch)
                    if not math.isfinite(losses["loss"].item()):
                        raise _not_finite("loss", losses, step, rate, batch.image_ids)
                    _backward(scaler.scale(losses["loss"]), losses_of)
                loss += losses.pop("loss").item()
                image_ids += batch.image_ids
                metrics.add({name: value.item() for name, value in losses.items()})
            scaler.unscale_(optimizer)
            norm = nn.utils.clip_grad_norm_((one for _, one in segmenter.named_parameters()), max_norm)
            if not math.isfinite(norm.item()) and not scaler.is_enabled():  # because the scaler skips such steps
                raise _not_finite("gradient", losses, step, rate, image_ids)
            scaler.step(optimizer)
            scaler.update()
            average.update(segmenter, step - job.start_step)
            step += 1
            metrics.add({"loss": loss, "gradient_norm": norm.item()})
            evaluate = job.evaluate if is_evaluation_step(step, job) else None
            if evaluate or step == stop_step or step % REPORT_EVERY_STEPS == 0:
                figures = metrics.take() | {"learning_rate": rate} | pace.take(step, batches.take_seconds_waited())
                if evaluate and context.rank == 0:
                    with average.applied_to(segmenter):
                        figures |= {f"ema_{name}": value for name, value in evaluate(segmenter).items()}
                    pace.start(step)
                context.report(step, figures)
            is_due = step == stop_step or step % job.settings.checkpoint_every == 0
            if (context.wants_checkpoint(step) or is_due) and context.rank == 0:
                context.save(take_snapshot(step, state))
    segmenter.load_state_dict(average.state)
    return segmenter.eval()


class BatchLosses(nn.Module):
    """The loss of labelled and pool images in one forward pass, because DDP needs one forward per backward pass.

    `loss` is the sum of the labelled terms plus `unlabelled_weight` times the weighted sum of the pool terms.
    """

    def __init__(self, segmenter: Segmenter, job: TrainJob, world_size: int) -> None:
        super().__init__()
        assert isinstance(segmenter, nn.Module)
        self.segmenter = segmenter
        self._pool_weights: dict[str, float] = {
            term: job.unlabelled_weight * getattr(job.pool_losses, term) for term in sorted(LOSS_TERMS)
        }
        self._pool_terms = frozenset(term for term in LOSS_TERMS if self._pool_weights[term] > 0)
        self._labelled_scale = world_size / max(job.labelled_per_batch, 1)
        self._pool_scale = world_size / max(job.unlabelled_per_batch, 1)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Compute `loss` with its gradient, and the terms `labelled_*` and `pool_*` without."""
        total = next(self.parameters()).new_zeros(())
        terms: dict[str, Tensor] = {}
        if batch.labelled_images:
            # Scaled by the number of images, because DDP averages over ranks with equal weights.
            scale = len(batch.labelled_images) * self._labelled_scale
            for term, value in self.segmenter.losses(batch.labelled_images, batch.labelled_targets).items():
                terms[f"labelled_{term}"] = value.detach()
                total = total + scale * value
        if batch.pool_images and self._pool_terms:
            scale = len(batch.pool_images) * self._pool_scale
            pool = self.segmenter.losses(batch.pool_images, batch.pool_targets, terms=self._pool_terms)
            for term, value in pool.items():
                terms[f"pool_{term}"] = value.detach()
                total = total + scale * self._pool_weights[term] * value
        return {"loss": total, **terms}


def _backward(loss: Tensor, module: nn.Module) -> None:
    """Add the gradients of a loss. A parameter that the loss does not reach gets a zero gradient.

    So weight decay acts on every parameter for any number of ranks. Under DDP every parameter takes part in the loss,
    because DDP waits for the gradient of each.
    """
    parameters = [one for one in module.parameters() if one.requires_grad]
    if isinstance(module, DistributedDataParallel):
        loss = loss + torch.stack([one.sum() for one in parameters]).sum() * 0.0
    if loss.requires_grad:  # False if a part has no images
        loss.backward()
    for one in parameters:
        if one.grad is None:
            one.grad = torch.zeros_like(one)


def _not_finite(
    what: str, losses: Mapping[str, Tensor], step: int, rate: float, image_ids: Sequence[str]
) -> TrainingError:
    values = ", ".join(f"{name} {value.item():.3g}" for name, value in losses.items())
    shown = ", ".join(image_ids[:MAX_IDS_NAMED]) + (", ..." if len(image_ids) > MAX_IDS_NAMED else "")
    return TrainingError(
        f"{what} is not finite at step {step + 1} (learning rate {rate:.3g}): {values}; images {shown}. Lower the "
        "learning rate, or check these images and their annotations."
    )


def is_evaluation_step(step: int, job: TrainJob) -> bool:
    """Tell whether the moving average is evaluated after this many finished steps."""
    every = job.settings.evaluate_every
    return every > 0 and step % every == 0


def _synchronised(module: nn.Module, is_last: bool) -> AbstractContextManager[None]:
    """Let DDP exchange gradients only in the backward pass of a rank's last part."""
    if isinstance(module, DistributedDataParallel) and not is_last:
        return module.no_sync()
    return nullcontext()


class _Pace:
    """The speed of training between two reports, without evaluations."""

    def __init__(self, images_per_step: int) -> None:
        self._images_per_step = images_per_step

    def start(self, step: int) -> None:
        self._step, self._start = step, time.perf_counter()

    def take(self, step: int, seconds_waited: float) -> dict[str, float]:
        """Return the images/s of all ranks, and the share of time in which this rank waited for images."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        num_images = (step - self._step) * self._images_per_step
        self.start(step)
        return {"images_per_second": num_images / seconds, "data_wait": min(1.0, seconds_waited / seconds)}


class _Means:
    """The means of metrics between two reports."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._nums: dict[str, int] = {}

    def add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._nums[name] = self._nums.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        means = {name: total / self._nums[name] for name, total in self._sums.items()}
        self._sums.clear()
        self._nums.clear()
        return means
