"""The training loop of teacher and student, written once against a small context."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor, nn

from raylabel.models.protocols import LOSS_TERMS, Segmenter
from raylabel.training.batches import Batch, Batches, BatchSource, step_seed
from raylabel.training.checkpoints import TrainState, read_checkpoint, write_checkpoint
from raylabel.training.ema import MovingAverage
from raylabel.training.job import TrainContext, TrainJob
from raylabel.training.optimizer import build_optimizer, learning_rate

__all__ = ["TrainContext", "TrainJob", "train"]

MAX_GRADIENT_NORM = 5.0
REPORT_EVERY_STEPS = 10


def train(segmenter: Segmenter, job: TrainJob, context: TrainContext) -> Segmenter:
    """Train a model in place; returns it with the moving average of its weights, in eval mode.

    A step depends on its number, the seed and the state before it, not on when it runs: after an interruption a
    restored training ends as an undisturbed one does. What is in a batch does not depend on the number of ranks.

    Args:
        segmenter: the model, equal on every rank.
        job: data and schedule.
        context: this worker.

    Raises:
        InputError: an image can't be read.
        RuntimeError: the loss is not finite; the message names the step.
    """
    segmenter.to(context.device)
    optimizer = build_optimizer(segmenter, job.settings)
    average = MovingAverage(segmenter, job.settings.ema_decay)
    amp_dtype = _amp_dtype(context.device)
    scaler = torch.amp.GradScaler(context.device.type, enabled=context.amp and amp_dtype == torch.float16)
    state = TrainState(segmenter=segmenter, average=average, optimizer=optimizer, scaler=scaler)
    step = job.start_step if context.restore is None else read_checkpoint(context.restore, state)
    stop_step = job.steps if job.stop_step is None else min(job.stop_step, job.steps)
    segmenter.train()
    losses_of = context.wrap(BatchLosses(segmenter, job, context.world_size))
    relabel = job.relabel(segmenter, average) if job.relabel else lambda batch, step: batch
    metrics = _Means()
    if context.open_batches:
        batches = context.open_batches(range(step, stop_step))
    else:
        batches = BatchSource(job, context.rank, context.world_size)
    for batch in _prefetched(batches, step, stop_step):
        rate = learning_rate(step, job)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = relabel(batch.to(context.device), step)
        torch.manual_seed(step_seed(job.seed, step, context.rank))
        with torch.autocast(context.device.type, dtype=amp_dtype, enabled=context.amp):
            losses = losses_of(batch)
        if not math.isfinite(losses["loss"].item()):
            parts = ", ".join(f"{name} {value.item():.3g}" for name, value in losses.items())
            raise RuntimeError(f"loss is not finite at step {step + 1} (learning rate {rate:.3g}): {parts}")
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(losses["loss"]).backward()
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_((one for _, one in segmenter.named_parameters()), MAX_GRADIENT_NORM)
        scaler.step(optimizer)
        scaler.update()
        average.update(segmenter, step - job.start_step)
        step += 1
        metrics.add({name: value.item() for name, value in losses.items()} | {"gradient_norm": norm.item()})
        is_checkpoint = step == stop_step or step % job.settings.checkpoint_every == 0
        if is_checkpoint or step % REPORT_EVERY_STEPS == 0:
            write = partial(write_checkpoint, step=step, state=state) if is_checkpoint else None
            context.report(step, metrics.take() | {"learning_rate": rate}, write)
    segmenter.load_state_dict(average.state)
    return segmenter.eval()


class BatchLosses(nn.Module):
    """Loss of a labelled and a pool batch in one forward pass, as DDP wants one for each backward pass.

    `loss` is the sum over labelled terms, plus `unlabelled_weight` times the weighted sum over pool terms.
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
        """`loss` with a gradient; the terms, `labelled_*` and `pool_*`, without."""
        # Every parameter takes part, as DDP waits for the gradient of each, also where a term finds nothing to learn.
        total = torch.stack([one.sum() * 0.0 for one in self.parameters() if one.requires_grad]).sum()
        terms: dict[str, Tensor] = {}
        if batch.labelled_images:
            # DDP averages over ranks; ranks with more images count more.
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


def _amp_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 needs no loss scaling; older GPUs have float16 only."""
    is_bf16 = device.type == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if is_bf16 else torch.float16


def _prefetched(source: Batches, step: int, stop_step: int) -> Iterator[Batch]:
    """Batches of the steps, each read while the one before is learnt from."""
    if step >= stop_step:
        return
    with ThreadPoolExecutor(max_workers=1) as reader:
        waiting = reader.submit(source.batch, step)
        for following in range(step + 1, stop_step + 1):
            batch = waiting.result()
            if following < stop_step:
                waiting = reader.submit(source.batch, following)
            yield batch


class _Means:
    """Running means of metrics between two reports."""

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
