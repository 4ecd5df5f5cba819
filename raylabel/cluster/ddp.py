"""Distributed training: training jobs as a Ray Train run that resumes from its checkpoints, whatever dies."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import ray
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from raylabel.cluster.attempts import repeat_while_it_comes_further
from raylabel.cluster.capacity import check_workers_fit
from raylabel.cluster.ddp_worker import Training, WorkerPlan, train_worker
from raylabel.cluster.memory import GB
from raylabel.cluster.progress_counter import live_progress
from raylabel.cluster.session import connect
from raylabel.cluster.worker_watch import waiting_text
from raylabel.config import TrainingConfig
from raylabel.files.file_systems import open_uri
from raylabel.run.folder import RunFolder
from raylabel.run.models import CHECKPOINTS, remove_checkpoints
from raylabel.threads import every, interruptible

RAY_FOLDER = "ray"
"""Folder of Ray Train's own files, beside the checkpoints."""

WAITING_SECONDS = 30.0
"""Seconds between two lines that say that workers have not started yet."""

__all__ = ["Training", "train_on_ray"]


def train_on_ray(
    trainings: Sequence[Training], *, run: RunFolder, folder: str, settings: TrainingConfig, label: str
) -> None:
    """Train models one after the other with DDP, and save the moving average of their weights in the run.

    They share one Ray Train run, because starting its processes costs as much as many steps. Saved models are not
    trained again. An interrupted training resumes from its last checkpoint.

    Args:
        trainings: the models to train.
        run: the run folder.
        folder: folder of the stage in the run.
        settings: workers and their resources.
        label: name on the progress line.

    Raises:
        InputError: a worker met bad input, or the cluster has too few CPUs or GPUs.
        TrainingError: the loss is not finite, or `ATTEMPTS` attempts in a row came no further.
        StorageError: a worker could not read or write.
    """
    missing = [training for training in trainings if not training.is_saved(run)]
    if not missing:
        return
    connect()
    check_workers_fit(label, settings)
    num_steps = sum(training.num_steps for training in missing)
    with live_progress(label, num_steps, unit="steps", run=run, folder=folder) as counter:
        plan = WorkerPlan(trainings=missing, run=run, settings=settings, counter=counter)
        storage = _train_storage(run.path(folder, CHECKPOINTS))

        def attempt(number: int, reason: str) -> None:
            planned = replace(plan, attempt=number)
            with every(WAITING_SECONDS, partial(_say_if_waiting, run.title(label), planned, reason)):
                interruptible(_trainer(planned, storage).fit)

        repeat_while_it_comes_further(run.title(label), attempt, plan.place)
    for one in {folder, *(training.folder for training in trainings)}:
        remove_checkpoints(run, one)


def _trainer(plan: WorkerPlan, storage: str) -> TorchTrainer:
    return TorchTrainer(
        train_worker,
        train_loop_config={"plan": plan},
        scaling_config=_scaling(plan.settings),
        run_config=RunConfig(
            name=RAY_FOLDER,
            storage_path=storage,
            failure_config=FailureConfig(max_failures=0),  # because `repeat_while_it_comes_further` judges failures
        ),
    )


def _say_if_waiting(title: str, plan: WorkerPlan, reason: str) -> None:
    with suppress(RayError, TimeoutError):
        num_started, num_workers = ray.get(plan.counter.num_started.remote(plan.attempt), timeout=10)
        num_workers = num_workers or plan.settings.num_workers
        if num_started < num_workers:
            waiting = waiting_text(
                num_workers - num_started,
                num_workers,
                num_cpus=plan.settings.cpus_per_worker,
                num_gpus=plan.settings.gpus_per_worker,
                memory_gb=plan.settings.memory_gb_per_worker,
            )
            number = f"; attempt {plan.attempt}: {reason}" if reason else ""
            print(f"{title}: {waiting}{number}", flush=True)


def _scaling(settings: TrainingConfig) -> ScalingConfig:
    most, least = settings.num_workers, settings.min_workers
    return ScalingConfig(
        num_workers=most if least is None else (least, most),  # type: ignore[arg-type]  # declared by Ray's first API
        use_gpu=settings.gpus_per_worker > 0,
        resources_per_worker={"CPU": settings.cpus_per_worker}
        | ({"GPU": settings.gpus_per_worker} if settings.gpus_per_worker else {})
        | ({"memory": settings.memory_gb_per_worker * GB} if settings.memory_gb_per_worker else {}),
    )


def _train_storage(uri: str) -> str:
    file_system, path = open_uri(uri)
    return path if file_system.type_name == "local" else uri
