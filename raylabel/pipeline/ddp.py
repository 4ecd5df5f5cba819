"""Distributed training: a training job as a Ray Train run with checkpoints that an interrupted run goes on from."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device, prepare_model

from raylabel.config import TrainingConfig
from raylabel.errors import InputError
from raylabel.models.protocols import Segmenter
from raylabel.models.saved import save_segmenter
from raylabel.pipeline.cluster_fit import check_workers_fit
from raylabel.pipeline.session import connect, live_progress
from raylabel.storage import RunFolder, commit_bytes, digest, exists, open_uri, read_bytes, read_json, remove
from raylabel.training.loop import TrainContext, TrainJob, train

JobBuilder = Callable[[], tuple[Segmenter, TrainJob]]
"""Builds a segmenter and its job inside a worker; it is sent there, so it must be light: a partial of a function."""

MAX_FAILURES = 3
REPORT_SECONDS = 1.0
IDENTITY_FILE = "identity.json"
"""In a checkpoint: which training it is of."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """One model to train.

    Attributes:
        build: makes the segmenter and the job in each worker.
        folder: where in the run the model and metrics.jsonl go.
        num_steps: steps that the job has, for the progress line.
        identity: JSON-able; a saved model or checkpoint of another identity is not taken for this one.
        description: goes into model.json.
    """

    build: JobBuilder
    folder: str
    num_steps: int
    identity: Any
    description: dict[str, Any]

    def is_saved(self, run: RunFolder) -> bool:
        """Whether the model is in the run."""
        uri = run.path(self.folder, "model.json")
        return exists(uri) and read_json(uri).get("identity") == digest(self.identity)


def train_on_ray(
    trainings: Sequence[Training], *, run: RunFolder, folder: str, settings: TrainingConfig, label: str
) -> None:
    """Train models one after the other with DDP, and save the moving average of their weights in the run.

    They share one Ray Train run, since starting its processes costs as much as many steps. Models that are saved are
    not trained again, and an interrupted training goes on from its last checkpoint.

    Args:
        trainings: what to train.
        run: the run folder.
        folder: where in the run `checkpoints/` are while it lasts.
        settings: workers and their resources.
        label: name on the progress line.

    Raises:
        InputError: a worker met bad input, or the cluster has too few CPUs or GPUs.
    """
    missing = [training for training in trainings if not training.is_saved(run)]
    if not missing:
        return
    connect()
    check_workers_fit(label, settings)
    checkpoints = run.path(folder, "checkpoints")
    num_steps = sum(training.num_steps for training in missing)
    with live_progress(label, num_steps, unit="steps", run=run, folder=folder) as counter:
        trainer = TorchTrainer(
            _train_worker,
            train_loop_config={
                "trainings": missing,
                "run": run.uri,
                "threads": max(1, int(settings.cpus_per_worker)),
                "counter": counter,
                "num_parts": settings.num_workers * settings.optimizer.accumulate,
            },
            scaling_config=_scaling(settings),
            run_config=RunConfig(
                name=digest([training.identity for training in trainings])[:16],
                storage_path=_train_storage(checkpoints),
                failure_config=FailureConfig(max_failures=MAX_FAILURES),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
            ),
        )
        trainer.fit()
        if refusal := ray.get(counter.refusal.remote()):
            raise InputError(refusal)
    remove(checkpoints)


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


def _train_worker(loop: dict[str, Any]) -> None:
    """Runs in every DDP worker. Ray starts failed workers again; after bad input they end at once, and the driver says
    what it was."""
    if ray.get(loop["counter"].refusal.remote()):
        return
    torch.set_num_threads(loop["threads"])
    run = RunFolder(loop["run"])
    # Decided before any rank saves anything, so that all ranks decide the same.
    missing = [training for training in loop["trainings"] if not training.is_saved(run)]
    try:
        for training in missing:
            _train_and_save(training, run, counter=loop["counter"], num_parts=loop["num_parts"])
    except InputError as error:
        ray.get(loop["counter"].refuse.remote(str(error)))
        raise


def _train_and_save(training: Training, run: RunFolder, *, counter: Any, num_parts: int) -> None:
    rank = ray.train.get_context().get_world_rank()
    metrics_uri = run.path(training.folder, "metrics.jsonl")
    segmenter, job = training.build()
    rows: list[dict[str, float]] = []
    last_report = 0.0

    def report(step: int, metrics: dict[str, float], write_checkpoint: Callable[[Path], None] | None) -> None:
        nonlocal last_report
        if rank == 0:
            # After a restart the log may be ahead of the checkpoint: steps that are made again replace their rows.
            rows[:] = [row for row in rows if row["step"] < step]
            rows.append({"step": step, **{name: round(value, 5) for name, value in metrics.items()}})
            if time.monotonic() - last_report > REPORT_SECONDS or write_checkpoint:
                last_report = time.monotonic()
                counter.report.remote(training.folder, step - job.start_step, note=f"loss {metrics['loss']:.3f}")
        if write_checkpoint is None:
            return
        if rank != 0:
            ray.train.report(metrics)
            return
        commit_bytes(metrics_uri, "".join(json.dumps(row) + "\n" for row in rows).encode())
        with tempfile.TemporaryDirectory() as scratch:
            write_checkpoint(Path(scratch))
            Path(scratch, IDENTITY_FILE).write_text(json.dumps(digest(training.identity)))
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(scratch))

    with _own_checkpoint(training) as restore:
        if restore is not None and rank == 0 and exists(metrics_uri):
            rows += [json.loads(line) for line in read_bytes(metrics_uri).decode().splitlines()]
        context = TrainContext(
            rank=rank,
            world_size=ray.train.get_context().get_world_size(),
            num_parts=num_parts,
            device=get_device(),
            wrap=prepare_model,
            report=report,
            restore=restore,
        )
        trained = train(segmenter, job, context)
    if rank == 0:
        description = {**training.description, "identity": digest(training.identity)}
        save_segmenter(trained, run.path(training.folder), description)


@contextmanager
def _own_checkpoint(training: Training) -> Iterator[Path | None]:
    """The last checkpoint as a local folder, if it is of this training."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        yield None
        return
    with checkpoint.as_directory() as folder:
        marker = Path(folder, IDENTITY_FILE)
        yield Path(folder) if json.loads(marker.read_text()) == digest(training.identity) else None
