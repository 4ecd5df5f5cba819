"""The contenders of benchmarks/training.py: the same model, images, augmentation and optimizer in different loops."""

import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from raylabel.cluster.ddp import Training, train_on_ray
from raylabel.config import TrainingConfig
from raylabel.dataset.annotations import read_annotations
from raylabel.dataset.sampling import RepeatFactorSampler, repeat_factors
from raylabel.models.build import build_segmenter
from raylabel.models.segmenter import Segmenter, Target
from raylabel.run.folder import RunFolder
from raylabel.smoothing import soft_targets
from raylabel.training.ema import MovingAverage
from raylabel.training.examples import LabelledExamples
from raylabel.training.job import SegmenterBuilder, TrainJob
from raylabel.training.optimizer import build_optimizer, learning_rate, set_learning_rate

BATCH = 8
WARM_STEPS = 10
"""First steps, which are not counted."""


def job_of(
    folder: str, model: str, steps: int, seed: int, settings: TrainingConfig
) -> tuple[SegmenterBuilder, TrainJob]:
    """Return the builder of an untrained model, and its job on the labelled images of the generated set."""
    annotated = read_annotations(f"{folder}/labelled.json", images_root=f"{folder}/images")
    targets = soft_targets(
        kind="none", counts=annotated.class_image_counts(), eps_min=0, eps_max=0, tau=1, similarity=None
    )
    examples = LabelledExamples(annotated, targets, max_pixels=10_000_000)

    def build() -> Segmenter:
        torch.manual_seed(seed)
        return build_segmenter(model, num_classes=annotated.num_classes)

    job = TrainJob(settings=settings, steps=steps, labelled=examples, labelled_per_batch=BATCH, seed=seed)
    return build, job


def through_ray(folder: str, model: str, steps: int, seed: int, num_workers: int, run: RunFolder) -> None:
    """Train as raylabel does: Ray Train with a log, and a checkpoint half-way and at the end."""
    settings = TrainingConfig(num_workers=num_workers, cpus_per_worker=1, checkpoint_every=max(1, steps // 2))
    training = Training(
        build=partial(job_of, folder, model, steps, seed, settings),
        folder="teacher",
        num_steps=steps,
        identity=[model, steps, seed, num_workers],
        description={"model": model},
    )
    train_on_ray([training], run=run, folder="teacher", settings=settings, label="benchmark")


class _Drawn(Dataset[tuple[Tensor, Target]]):
    """The images of a training, in training order."""

    def __init__(self, job: TrainJob) -> None:
        self._examples, self._seed, self._num = job.labelled, job.seed, job.steps * BATCH
        factors = repeat_factors(job.labelled.image_classes(), job.labelled.num_classes, job.settings.repeat_threshold)
        self._sampler = RepeatFactorSampler(factors, BATCH, seed=job.seed)

    def __len__(self) -> int:
        return self._num

    def __getitem__(self, draw: int) -> tuple[Tensor, Target]:
        step, place = divmod(draw, BATCH)
        index = int(self._sampler.batch(step)[place])
        return self._examples.load(index, np.random.default_rng([self._seed, draw]))


def plain_loop(folder: str, model: str, steps: int, seed: int, loader_workers: int) -> dict[str, Any]:
    """Train as plain code would: a DataLoader, AdamW, clipping and a moving average, on one thread."""
    torch.set_num_threads(1)
    settings = TrainingConfig()
    build, job = job_of(folder, model, steps, seed, settings)
    segmenter = build()
    optimizer = build_optimizer(segmenter, settings.optimizer)
    average = MovingAverage(segmenter, settings.optimizer.ema_decay)
    segmenter.train()
    loader = DataLoader(_Drawn(job), batch_size=BATCH, num_workers=loader_workers, collate_fn=list)
    waited, losses = 0.0, []
    start = time.perf_counter()
    for step, (seconds, examples) in enumerate(_timed(loader)):
        if step == WARM_STEPS:
            start, waited = time.perf_counter(), 0.0
        else:
            waited += seconds
        set_learning_rate(optimizer, learning_rate(step, job))
        terms = segmenter.losses([image for image, _ in examples], [target for _, target in examples])
        loss = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_((one for _, one in segmenter.named_parameters()), 5.0)
        optimizer.step()
        average.update(segmenter, step)
        losses.append(loss.item())
    seconds = time.perf_counter() - start
    return {
        "images_per_second": (steps - WARM_STEPS) * BATCH / seconds,
        "data_wait": waited / seconds,
        "loss": float(np.mean(losses[-steps // 3 :])),
    }


def _timed(loader: Any) -> Iterator[tuple[float, Any]]:
    batches = iter(loader)
    while True:
        start = time.perf_counter()
        try:
            batch = next(batches)
        except StopIteration:
            return
        yield time.perf_counter() - start, batch


def figures_of(run: RunFolder, steps: int) -> dict[str, float]:
    """Read the figures of a run's metrics.jsonl, without its first steps."""
    lines = Path(run.path("teacher", "metrics.jsonl")).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    counted = [row for row in rows if row["step"] > WARM_STEPS]
    late = [row["loss"] for row in rows if row["step"] > steps - steps // 3]
    return {
        "images_per_second": len(counted) / sum(1 / row["images_per_second"] for row in counted),
        "data_wait": float(np.mean([row["data_wait"] for row in counted])),
        "loss": float(np.mean(late)),
    }
