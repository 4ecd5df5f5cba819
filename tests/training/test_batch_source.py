"""The batches of a job: their parts, their order and their random numbers."""

import numpy as np
import pytest
import torch
from torch import Tensor

from raylabel.config import TrainingConfig
from raylabel.models.segmenter import Target
from raylabel.training.batch_source import BatchSource
from toy_training import ToyExamples, a_job


@pytest.mark.parametrize("num_parts", [2, 3, 5])
def test_the_parts_make_up_the_batch(num_parts: int) -> None:
    """Some sizes do not divide, and some parts are empty. Augmentation depends on the place, so pixels are equal."""
    job = a_job()
    for step in (0, 4):
        whole = BatchSource(job, 1).batch(step, 0)
        parts = [BatchSource(job, num_parts).batch(step, part) for part in range(num_parts)]
        for name in ("labelled_images", "pool_images"):
            together = [image for part in parts for image in getattr(part, name)]
            assert len(together) == len(getattr(whole, name))
            for image, expected in zip(together, getattr(whole, name), strict=True):
                assert torch.equal(image, expected)
            sizes = [len(getattr(part, name)) for part in parts]
            assert max(sizes) - min(sizes) <= 1


def test_batches_change_from_step_to_step_and_come_back() -> None:
    source = BatchSource(a_job(), 1)
    first, second, again = (source.batch(step, 0).labelled_images[0] for step in (0, 1, 0))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


class DrawnExamples(ToyExamples):
    """Images that keep the first number of their generator."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[float] = []

    def load(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Target]:
        self.drawn.append(rng.random())
        return super().load(index, rng)


def test_every_place_of_every_step_and_stream_is_augmented_by_other_numbers() -> None:
    def drawn(seed: int) -> tuple[list[float], list[float]]:
        labelled, pool = DrawnExamples(), DrawnExamples()
        source = BatchSource(a_job(labelled=labelled, pool=pool, labelled_per_batch=3, seed=seed), 1)
        for step in range(3):
            source.batch(step, 0)
        return labelled.drawn, pool.drawn

    labelled, pool = drawn(5)
    assert (len(labelled), len(pool)) == (9, 6)
    assert len({*labelled, *pool}) == 15
    assert drawn(5) == (labelled, pool)
    assert not {*labelled, *pool} & {*drawn(6)[0], *drawn(6)[1]}


def test_images_change_with_the_seed_and_pool_images_come_in_turn() -> None:
    def indices(seed: int) -> list[int]:
        job = a_job(seed=seed)
        source = BatchSource(job, 1)
        for step in range(4):
            source.batch(step, 0)
        assert isinstance(job.pool, ToyExamples)
        assert job.pool.loaded == list(range(8))
        assert isinstance(job.labelled, ToyExamples)
        return job.labelled.loaded

    assert indices(5) == indices(5)
    assert indices(5) != indices(6)


def test_frequent_images_are_drawn_less_by_the_repeat_threshold() -> None:
    """One of 8 images shows class 1. At threshold 0.5 its factor is sqrt(0.5 / (1 / 8)) = 2, at 0 it is 1."""

    class OneRare(ToyExamples):
        def image_classes(self) -> list[np.ndarray]:
            return [np.array([index == 7], np.int32) for index in range(8)]

    for threshold, factor in ((0.5, 2), (0.0, 1)):
        labelled = OneRare(num=8)
        settings = TrainingConfig(repeat_threshold=threshold)
        job = a_job(labelled=labelled, labelled_per_batch=7 + factor, settings=settings, pool=None)
        BatchSource(job, 1).batch(0, 0)
        assert sorted(labelled.loaded) == [*range(7), *[7] * factor]
