"""Which images a step learns from: stateless, so that a restored training sees what an undisturbed one would."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raylabel.dataset.sampling import RepeatFactorSampler, repeat_factors
from raylabel.models.protocols import Target
from raylabel.training.examples import Examples
from raylabel.training.job import TrainJob

LABELLED_STREAM, POOL_STREAM, MODEL_STREAM = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A part of a step's images: what goes through the model at once."""

    labelled_images: list[Tensor]
    labelled_targets: list[Target]
    pool_images: list[Tensor]
    pool_targets: list[Target]

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        return Batch(
            labelled_images=[one.to(device) for one in self.labelled_images],
            labelled_targets=[one.to(device) for one in self.labelled_targets],
            pool_images=[one.to(device) for one in self.pool_images],
            pool_targets=[one.to(device) for one in self.pool_targets],
        )


class BatchSource:
    """Reads each step's batch in parts.

    Args:
        job: examples, sizes, repeat threshold and seed.
        num_parts: labelled and pool images are each cut into so many contiguous parts; the first have one more where it
            doesn't divide.
    """

    def __init__(self, job: TrainJob, num_parts: int) -> None:
        self._num_parts = num_parts
        self._labelled = _Stream(job.labelled, job.labelled_per_batch, job, LABELLED_STREAM)
        self._pool = (
            _Stream(job.pool, job.unlabelled_per_batch, job, POOL_STREAM)
            if job.pool is not None and job.unlabelled_per_batch
            else None
        )

    def batch(self, step: int, part: int) -> Batch:
        """The images of a part of a step."""
        labelled = self._labelled.read(step, part, self._num_parts)
        pool = self._pool.read(step, part, self._num_parts) if self._pool else []
        return Batch(
            labelled_images=[image for image, _ in labelled],
            labelled_targets=[target for _, target in labelled],
            pool_images=[image for image, _ in pool],
            pool_targets=[target for _, target in pool],
        )


class _Stream:
    """Repeat-factor sampling from one set of examples; augmentation depends on seed, step and place in the batch."""

    def __init__(self, examples: Examples, batch_size: int, job: TrainJob, stream: int) -> None:
        self._examples, self._seed, self._stream = examples, job.seed, stream
        factors = repeat_factors(examples.image_classes(), examples.num_classes, job.settings.repeat_threshold)
        self._sampler = RepeatFactorSampler(factors, batch_size, seed=step_seed(job.seed, 0, stream))

    def read(self, step: int, part: int, num_parts: int) -> list[tuple[Tensor, Target]]:
        indices = self._sampler.batch(step)
        places = np.array_split(np.arange(len(indices)), num_parts)[part]
        return [
            self._examples.load(
                int(indices[place]), np.random.default_rng([self._seed, self._stream, step, int(place)])
            )
            for place in places
        ]


def step_seed(seed: int, step: int, stream: int) -> int:
    """A seed in [0, 2**32) of its own for each step and stream (such as a part of the batch)."""
    return int(np.random.SeedSequence([seed, MODEL_STREAM, step, stream]).generate_state(1)[0])
