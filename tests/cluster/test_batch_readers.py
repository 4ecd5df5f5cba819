"""Batches that Ray Data reads equal those that a worker reads itself."""

from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import pytest
import torch

from prepared import prepared_run
from raylabel.cluster.batch_readers import TaskBatches
from raylabel.cluster.capacity import decodes_by_tasks
from raylabel.cluster.ddp import Training, train_on_ray
from raylabel.config import TrainingConfig, config_dict, load_config
from raylabel.dataset.synthetic.generate import generate
from raylabel.errors import InputError
from raylabel.models.saved import load_segmenter
from raylabel.stages.training_jobs import describe_model, fold_teacher_job
from raylabel.training.batch_source import BatchSource
from raylabel.training.batches import Batch
from toy_pool_job import toy_pool_job, write_pool

CONFIG = """
data: {labelled: labelled.json, images: images, calibration: val.json, validation: val.json, pool: pool}
smoothing: {warmup_steps: 0}
teacher: {steps: 6, batch_size: 4, num_workers: 1, checkpoint_every: 3}
calibration: {folds: 2}
"""


@pytest.mark.parametrize(
    ("decoding", "gpus", "by_tasks"),
    [("auto", 0.0, False), ("auto", 1.0, True), ("tasks", 0.0, True), ("threads", 1.0, False)],
)
def test_auto_is_tasks_where_there_is_a_gpu(decoding: str, gpus: float, by_tasks: bool) -> None:
    settings = TrainingConfig(decoding=decoding, gpus_per_worker=gpus)
    assert decodes_by_tasks(settings) == by_tasks


def assert_equal(first: Batch, second: Batch) -> None:
    assert first.image_ids == second.image_ids
    for name in ("labelled_images", "pool_images"):
        for one, other in zip(getattr(first, name), getattr(second, name), strict=True):
            assert torch.equal(one, other)
    for one, other in zip(first.pool_targets, second.pool_targets, strict=True):
        for field in fields(one):
            assert torch.equal(getattr(one, field.name), getattr(other, field.name)), field.name
    for one, other in zip(first.pool_rngs, second.pool_rngs, strict=True):
        assert one.random() == other.random()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_tasks_and_threads_give_equal_batches_and_the_same_refusal(tmp_path: Path) -> None:
    """The batches start at a restored step, and are the second of two parts."""
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


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_tasks_and_threads_end_with_the_same_weights(tmp_path: Path) -> None:
    """Run a whole training in a Ray Train worker."""
    generate(tmp_path, num_images=60, num_classes=6, image_size=64)
    (tmp_path / "config.yaml").write_text(CONFIG)
    config = load_config(tmp_path / "config.yaml")
    run = prepared_run(config, tmp_path / "run")
    for decoding in ("threads", "tasks"):
        settings = replace(config.teacher, decoding=decoding)
        training = Training(
            build=partial(fold_teacher_job, config_dict(config), run, 0),
            folder=decoding,
            num_steps=config.teacher.steps,
            identity=[decoding],
            description=describe_model(settings, decoding),
        )
        train_on_ray([training], run=run, folder=decoding, settings=settings, label=decoding)
    by_threads, by_tasks = (load_segmenter(run.path(one))[0].state_dict() for one in ("threads", "tasks"))
    for name, tensor in by_threads.items():
        assert torch.equal(tensor, by_tasks[name]), name
