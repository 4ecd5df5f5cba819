"""Reading batches: the labelled and pool images of each step, in parts."""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from raylabel.dataset.sampling import RepeatFactorSampler, repeat_factors
from raylabel.models.segmenter import Target
from raylabel.training.batches import LABELLED_STREAM, POOL_STREAM, Batch, step_seed
from raylabel.training.examples import ExampleStream
from raylabel.training.job import TrainJob


class BatchSource:
    """Reads the batch of each step in parts.

    Args:
        job: gives the examples, the batch sizes, the repeat threshold and the seed.
        num_parts: number of contiguous parts of the labelled and of the pool images. If a batch does not divide evenly,
            the first parts have one image more.
    """

    def __init__(self, job: TrainJob, num_parts: int) -> None:
        self._num_parts, self._seed = num_parts, job.seed
        self._labelled = _Stream(RepeatedExamples(job), job.labelled_per_batch, LABELLED_STREAM)
        self._pool = _Stream(job.pool, job.unlabelled_per_batch, POOL_STREAM) if job.pool is not None else None

    def batch(self, step: int, part: int) -> Batch:
        """Read the images of one part of a step."""
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
        """Read one part. Augmentation depends on seed, step and place in the batch, not on the number of parts."""
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
    """An ExampleStream that draws the labelled examples of a job by their repeat factors."""

    def __init__(self, job: TrainJob) -> None:
        self._examples = job.labelled
        factors = repeat_factors(
            self._examples.image_classes(), self._examples.num_classes, job.settings.repeat_threshold
        )
        self._sampler = RepeatFactorSampler(factors, 1, seed=step_seed(job.seed, 0, LABELLED_STREAM))

    def image_id(self, draw: int) -> str:
        """See `ExampleStream`."""
        [index] = self._sampler.batch(draw)
        return self._examples.image_id(int(index))

    def load(self, draw: int, rng: np.random.Generator) -> tuple[Tensor, Target]:
        """See `ExampleStream`."""
        [index] = self._sampler.batch(draw)
        return self._examples.load(int(index), rng)
