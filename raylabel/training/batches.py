"""Which images a step learns from: stateless, so that a restored training sees what an undisturbed one would."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from raylabel.dataset.sampling import RepeatFactorSampler, repeat_factors
from raylabel.models.protocols import Target
from raylabel.training.examples import ExampleStream
from raylabel.training.job import TrainJob

LABELLED_STREAM, POOL_STREAM, MODEL_STREAM = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A part of a step's images: what goes through the model at once.

    Attributes:
        pool_rngs: the generator of each pool image, for what is done to it after reading.
        image_ids: what the images are called in messages, labelled ones first.
    """

    labelled_images: list[Tensor]
    labelled_targets: list[Target]
    pool_images: list[Tensor]
    pool_targets: list[Target]
    pool_rngs: list[np.random.Generator]
    image_ids: list[str]

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        return Batch(
            labelled_images=[one.to(device) for one in self.labelled_images],
            labelled_targets=[one.to(device) for one in self.labelled_targets],
            pool_images=[one.to(device) for one in self.pool_images],
            pool_targets=[one.to(device) for one in self.pool_targets],
            pool_rngs=self.pool_rngs,
            image_ids=self.image_ids,
        )


class Batches(Protocol):
    """The parts of each step's batch, read in some way or other."""

    def batch(self, step: int, part: int) -> Batch:
        """The images of a part of a step; they are asked for in order."""
        ...


class BatchSource:
    """Reads each step's batch in parts.

    Args:
        job: examples, sizes, repeat threshold and seed.
        num_parts: labelled and pool images are each cut into so many contiguous parts; the first have one more where it
            doesn't divide.
    """

    def __init__(self, job: TrainJob, num_parts: int) -> None:
        self._num_parts, self._seed = num_parts, job.seed
        self._labelled = _Stream(RepeatedExamples(job), job.labelled_per_batch, LABELLED_STREAM)
        self._pool = _Stream(job.pool, job.unlabelled_per_batch, POOL_STREAM) if job.pool is not None else None

    def batch(self, step: int, part: int) -> Batch:
        """The images of a part of a step."""
        labelled = self._read(self._labelled, step, part)
        pool = self._read(self._pool, step, part) if self._pool else []
        return Batch(
            labelled_images=[one.image for one in labelled],
            labelled_targets=[one.target for one in labelled],
            pool_images=[one.image for one in pool],
            pool_targets=[one.target for one in pool],
            pool_rngs=[one.rng for one in pool],
            image_ids=[one.image_id for one in labelled + pool],
        )

    def _read(self, stream: "_Stream", step: int, part: int) -> list["_Read"]:
        """Augmentation depends on seed, step and place in the batch, not on the parts."""
        read = []
        for place in np.array_split(np.arange(stream.per_batch), self._num_parts)[part].tolist():
            rng = np.random.default_rng([self._seed, stream.number, step, place])
            draw = step * stream.per_batch + place
            read.append(_Read(*stream.images.load(draw, rng), rng, stream.images.image_id(draw)))
        return read


class _Stream(NamedTuple):
    images: ExampleStream
    per_batch: int
    number: int


class _Read(NamedTuple):
    image: Tensor
    target: Target
    rng: np.random.Generator
    image_id: str


class RepeatedExamples:
    """An ExampleStream by repeat-factor sampling from a job's labelled examples, of which all are known."""

    def __init__(self, job: TrainJob) -> None:
        self._examples = job.labelled
        factors = repeat_factors(
            self._examples.image_classes(), self._examples.num_classes, job.settings.repeat_threshold
        )
        self._sampler = RepeatFactorSampler(factors, 1, seed=step_seed(job.seed, 0, LABELLED_STREAM))

    def image_id(self, draw: int) -> str:
        """See ExampleStream."""
        [index] = self._sampler.batch(draw)
        return self._examples.image_id(int(index))

    def load(self, draw: int, rng: np.random.Generator) -> tuple[Tensor, Target]:
        """See ExampleStream."""
        [index] = self._sampler.batch(draw)
        return self._examples.load(int(index), rng)


def step_seed(seed: int, step: int, stream: int) -> int:
    """A seed in [0, 2**32) of its own for each step and stream (such as a part of the batch)."""
    return int(np.random.SeedSequence([seed, MODEL_STREAM, step, stream]).generate_state(1)[0])
