"""Distributed training: training jobs as a Ray Train run that resumes from its checkpoints, whatever dies."""

from collections.abc import Sequence

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from raylabel.cluster.capacity import check_workers_fit
from raylabel.cluster.ddp_worker import Training, WorkerPlan, train_worker
from raylabel.cluster.failure_record import start_failure_record
from raylabel.cluster.progress_counter import live_progress
from raylabel.cluster.session import connect
from raylabel.config import TrainingConfig
from raylabel.files.storage import open_uri
from raylabel.run.folder import RunFolder
from raylabel.run.models import CHECKPOINTS, remove_checkpoints

RAY_FOLDER = "ray"
"""Folder of Ray Train's own files, beside the checkpoints."""

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
        failures = start_failure_record()
        plan = WorkerPlan(
            label=label, trainings=missing, run=run, settings=settings, counter=counter, failures=failures
        )
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"plan": plan},
            scaling_config=_scaling(settings),
            run_config=RunConfig(
                name=RAY_FOLDER,
                storage_path=_train_storage(run.path(folder, CHECKPOINTS)),
                # Unlimited, because workers may die for days. FailureRecord.begin limits attempts without progress.
                failure_config=FailureConfig(max_failures=-1),
            ),
        )
        trainer.fit()
        if refusal := ray.get(failures.refusal.remote()):
            raise refusal
    for one in {folder, *(training.folder for training in trainings)}:
        remove_checkpoints(run, one)


def _scaling(settings: TrainingConfig) -> ScalingConfig:
    most, least = settings.num_workers, settings.min_workers
    return ScalingConfig(
        num_workers=most if least is None else (least, most),  # type: ignore[arg-type]  # declared by Ray's first API
        use_gpu=settings.gpus_per_worker > 0,
        resources_per_worker={"CPU": settings.cpus_per_worker}
        | ({"GPU": settings.gpus_per_worker} if settings.gpus_per_worker else {}),
    )


def _train_storage(uri: str) -> str:
    file_system, path = open_uri(uri)
    return path if file_system.type_name == "local" else uri
