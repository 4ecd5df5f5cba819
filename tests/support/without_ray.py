"""Stages in this process, for tests that are not about Ray: the same workers take the same shards one by one.

`tests/stages/test_label.py` checks that the files equal those that Ray makes.
"""

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from raylabel.cluster.ddp_worker import Training
from raylabel.config import Config, TrainingConfig, config_dict
from raylabel.files.digests import digest
from raylabel.models.saved import save_segmenter
from raylabel.run.folder import RunFolder
from raylabel.training.log import TrainingLog
from raylabel.training.loop import TrainContext, train

MODULES = ("run", "prototypes", "teacher", "calibrate", "label", "label_shards", "distill", "evaluate", "pool_sample")


class Silent:
    """A stand-in for an actor and its handle. It ignores every call."""

    def __getattr__(self, name: str) -> "Silent":
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> "Silent":
        return self


@contextmanager
def nobody_watches(*args: Any, **kwargs: Any) -> Iterator[Silent]:
    """Stand in for `live_progress` and `live_calibration`."""
    yield Silent()


def map_shards(
    worker: type,
    *,
    config: Config,
    worker_args: Mapping[str, Any],
    shards: Sequence[Mapping[str, Any]],
    title: str = "workers",
) -> Iterator[pa.Table]:
    """The same as `cluster.map_shards.map_shards`, with one worker, which is this process."""
    if shards:
        arguments = config_dict(replace(config, label=replace(config.label, num_workers=1)))
        made = worker(config=arguments, **worker_args)
        for shard in shards:
            yield made(json.loads(json.dumps(shard)))


def train_here(
    trainings: Sequence[Training], *, run: RunFolder, folder: str, settings: TrainingConfig, label: str
) -> None:
    """The same as `cluster.ddp.train_on_ray`, with one rank, which is this process, and without checkpoints."""
    for training in trainings:
        if not training.is_saved(run):
            build_segmenter, job = training.build()
            log = TrainingLog(run.path(training.folder), finished_steps=0)
            num_parts = settings.num_workers * settings.optimizer.accumulate
            trained = train(build_segmenter(), job, TrainContext(num_parts=num_parts, report=log.add))
            log.close()
            description = {**training.description, "identity": digest(training.identity)}
            save_segmenter(trained, run.path(training.folder), description)


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every stage of the test in this process."""
    put_stages_here(monkeypatch)


def put_stages_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace everything that needs Ray in every module of `stages/`."""
    replaced = {
        "connect": lambda: None,
        "check_cluster": lambda config, run, stages, *, num_shards: None,
        "check_nodes": lambda run, *, uses_gpus: None,
        "map_shards": map_shards,
        "train_on_ray": train_here,
        "live_progress": nobody_watches,
        "live_calibration": nobody_watches,
        "ImagesLeft": Silent(),
    }
    for name in MODULES:
        module = importlib.import_module(f"raylabel.stages.{name}")
        for attribute, here in replaced.items():
            if hasattr(module, attribute):
                monkeypatch.setattr(module, attribute, here)
    monkeypatch.setattr("raylabel.stages.label_worker.ShardMetrics", Silent())
