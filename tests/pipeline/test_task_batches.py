"""Batches that Ray Data reads are those that a worker would have read itself."""

from dataclasses import fields
from functools import partial
from pathlib import Path

import pytest
import torch
from toy_pool_job import toy_pool_job, write_pool

from raylabel.config import TrainingConfig
from raylabel.errors import InputError
from raylabel.pipeline.task_batches import TaskBatches, decodes_by_tasks
from raylabel.training.batches import Batch, BatchSource


@pytest.mark.parametrize(
    ("decoding", "gpus", "by_tasks"),
    [("auto", 0.0, False), ("auto", 1.0, True), ("tasks", 0.0, True), ("threads", 1.0, False)],
)
def test_auto_is_tasks_where_there_is_a_gpu(decoding: str, gpus: float, by_tasks: bool) -> None:
    settings = TrainingConfig(decoding=decoding, gpus_per_worker=gpus)  # type: ignore[arg-type]
    assert decodes_by_tasks(settings) == by_tasks


def assert_equal(first: Batch, second: Batch) -> None:
    for name in ("labelled_images", "pool_images"):
        for one, other in zip(getattr(first, name), getattr(second, name), strict=True):
            assert torch.equal(one, other)
    for one, other in zip(first.pool_targets, second.pool_targets, strict=True):
        for field in fields(one):
            assert torch.equal(getattr(one, field.name), getattr(other, field.name)), field.name
    for one, other in zip(first.pool_rngs, second.pool_rngs, strict=True):
        assert one.random() == other.random()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_tasks_and_threads_give_equal_batches_and_the_same_refusal(tmp_path: Path) -> None:
    """From a restored step on, the second of two parts."""
    write_pool(tmp_path)
    build = partial(toy_pool_job, str(tmp_path))
    steps = range(3, 9)
    by_tasks = TaskBatches(build, 2, [(step, 1) for step in steps])
    here = BatchSource(build()[1], 2)
    for step in steps:
        assert_equal(by_tasks.batch(step, 1), here.batch(step, 1))
    for image in (tmp_path / "pool").iterdir():
        image.write_bytes(b"")
    with pytest.raises(InputError, match=r"\.png"):
        TaskBatches(build, 2, [(0, 1)]).batch(0, 1)
