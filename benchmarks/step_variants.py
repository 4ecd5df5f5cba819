"""CPU seconds per training step of variants of a config's teacher, in turn on the same batches.

    python benchmarks/step_variants.py configs/voc_lt.yaml --steps 7

A step is forward, backward, clipping and the optimizer, on one thread, without reading. Every variant takes each step
in turn, so that a busy machine slows all alike. The ratio is the median over steps of the ratio to the first variant of
the same step. The first step does not count.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import raylabel as rl
from raylabel.run.data import RunData
from raylabel.stages.training_jobs import class_targets, labelled_examples, new_segmenter
from raylabel.training.batch_source import BatchSource
from raylabel.training.batches import Batch
from raylabel.training.job import TrainJob
from raylabel.training.loop import BatchLosses
from raylabel.training.network import autocast_dtype, prepare_network
from raylabel.training.optimizer import build_optimizer

BF16, CHANNELS_LAST = {"teacher.optimizer.precision": "bf16"}, {"teacher.optimizer.channels_last": "true"}


def frozen(stages: int) -> dict[str, str]:
    return {"teacher.model_options": f"{{frozen_stages: {stages}}}"}


VARIANTS: dict[str, dict[str, str]] = {
    "as it is": {},
    "bf16": BF16,
    "channels_last": CHANNELS_LAST,
    "bf16, channels_last": BF16 | CHANNELS_LAST,
    **{f"frozen_stages {stages}": frozen(stages) for stages in (-1, 3, 5, 7)},
    "bf16, frozen_stages 3": BF16 | frozen(3),
    **{f"min_size {side}": {"teacher.min_size": str(side)} for side in (192, 160)},
}


class Variant:
    """A model with its optimizer, and the seconds of its steps."""

    def __init__(self, config: rl.Config, job: TrainJob) -> None:
        settings = config.teacher.optimizer
        segmenter = new_segmenter(config.teacher, num_classes=job.labelled.num_classes, seed=config.seed)
        prepare_network(segmenter, settings)
        segmenter.train()
        self.optimizer, self.losses = build_optimizer(segmenter, settings), BatchLosses(segmenter, job, 1)
        self.dtype = autocast_dtype(settings.precision, torch.device("cpu"))
        self.seconds: list[float] = []

    def step(self, batch: Batch, seed: int) -> None:
        torch.manual_seed(seed)
        start = time.process_time()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=self.dtype, enabled=self.dtype is not None):
            losses = self.losses(batch)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(self.losses.parameters(), 5.0)
        self.optimizer.step()
        self.seconds.append(time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--steps", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = rl.load_config(arguments.config)
    labelled = RunData(config).labelled
    examples = labelled_examples(config, labelled, class_targets(config, labelled, None, kind="none"), config.teacher)
    job = TrainJob(
        settings=config.teacher, steps=arguments.steps, labelled=examples, labelled_per_batch=config.teacher.batch_size
    )
    beside = {"student.init": "weights"}  # because the student keeps the config's options
    variants = {
        name: Variant(rl.load_config(arguments.config, beside | overrides), job) for name, overrides in VARIANTS.items()
    }
    source = BatchSource(job, 1)
    for step in range(arguments.steps):
        batch = source.batch(step, 0)
        for variant in variants.values():
            variant.step(batch, step)
    first = np.array(next(iter(variants.values())).seconds[1:])
    print(f"{'':<24}{'CPU s':>8}{'ratio':>8}")
    for name, variant in variants.items():
        seconds = np.array(variant.seconds[1:])
        print(f"{name:<24}{np.median(seconds):>8.2f}{np.median(seconds / first):>8.2f}")


if __name__ == "__main__":
    main()
