"""Distributed training: a training job as a Ray Train run with checkpoints that an interrupted run goes on from."""

import json
import tempfile
import time
from collections.abc import Callable
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
from raylabel.pipeline.session import connect, live_progress
from raylabel.storage import RunFolder, commit_bytes, digest, exists, open_uri, read_bytes, remove
from raylabel.training.loop import TrainContext, TrainJob, train

JobBuilder = Callable[[], tuple[Segmenter, TrainJob]]
"""Builds a segmenter and its job inside a worker; it is sent there, so it must be light: a partial of a function."""

MAX_FAILURES = 3
REPORT_SECONDS = 1.0


def train_on_ray(
    build: JobBuilder,
    *,
    run: RunFolder,
    folder: str,
    settings: TrainingConfig,
    num_steps: int,
    identity: Any,
    label: str,
    description: dict[str, Any],
) -> None:
    """Train with DDP and save the moving average of the weights in the run; nothing is done where it is there already.

    Args:
        build: makes the segmenter and the job in each worker.
        run: the run folder.
        folder: where in the run the model, metrics.jsonl and checkpoints go.
        settings: workers and their resources.
        num_steps: steps that the job has, for the progress line.
        identity: JSON-able; checkpoints of another identity are not gone on from.
        label: name on the progress line.
        description: goes into model.json.

    Raises:
        InputError: a worker met bad input, or the cluster has too few CPUs or GPUs.
    """
    model_json = run.path(folder, "model.json")
    if exists(model_json) and json.loads(read_bytes(model_json)).get("identity") == digest(identity):
        return
    connect()
    _check_workers_fit(label, settings)
    checkpoints = run.path(folder, "checkpoints")
    with live_progress(label, num_steps, unit="steps") as counter:
        trainer = TorchTrainer(
            _train_worker,
            train_loop_config={
                "build": build,
                "run": run.uri,
                "folder": folder,
                "amp": settings.gpus_per_worker > 0,
                "threads": max(1, int(settings.cpus_per_worker)),
                "description": {**description, "identity": digest(identity)},
                "counter": counter,
            },
            scaling_config=ScalingConfig(
                num_workers=settings.num_workers,
                use_gpu=settings.gpus_per_worker > 0,
                resources_per_worker={"CPU": settings.cpus_per_worker}
                | ({"GPU": settings.gpus_per_worker} if settings.gpus_per_worker else {}),
            ),
            run_config=RunConfig(
                name=digest(identity)[:16],
                storage_path=_train_storage(checkpoints),
                failure_config=FailureConfig(max_failures=MAX_FAILURES),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
            ),
        )
        trainer.fit()
        if refusal := ray.get(counter.refusal.remote()):
            raise InputError(refusal)
    remove(checkpoints)


def _train_storage(uri: str) -> str:
    file_system, path = open_uri(uri)
    return path if file_system.type_name == "local" else uri


def _check_workers_fit(label: str, settings: TrainingConfig) -> None:
    resources = ray.cluster_resources()
    for name, each in (("CPU", settings.cpus_per_worker), ("GPU", settings.gpus_per_worker)):
        wanted, there = settings.num_workers * each, resources.get(name, 0.0)
        if wanted > there:
            raise InputError(
                f"{label}: {settings.num_workers} workers x {each:g} {name}s asked for, the cluster has {there:g}"
            )


def _train_worker(loop: dict[str, Any]) -> None:
    """Runs in every DDP worker. Ray starts failed workers again; after bad input they end at once, and the driver says
    what it was."""
    if ray.get(loop["counter"].refusal.remote()):
        return
    try:
        _train_and_save(loop)
    except InputError as error:
        ray.get(loop["counter"].refuse.remote(str(error)))
        raise


def _train_and_save(loop: dict[str, Any]) -> None:
    torch.set_num_threads(loop["threads"])
    rank = ray.train.get_context().get_world_rank()
    run, folder = RunFolder(loop["run"]), loop["folder"]
    metrics_uri = run.path(folder, "metrics.jsonl")
    segmenter, job = loop["build"]()
    rows: list[dict[str, float]] = []
    last_report = 0.0

    def report(step: int, metrics: dict[str, float], write_checkpoint: Callable[[Path], None] | None) -> None:
        nonlocal last_report
        if rank == 0:
            rows.append({"step": step, **{name: round(value, 5) for name, value in metrics.items()}})
            if time.monotonic() - last_report > REPORT_SECONDS or write_checkpoint:
                last_report = time.monotonic()
                loop["counter"].report.remote(folder, step - job.start_step, f"loss {metrics['loss']:.3f}")
        if write_checkpoint is None:
            return
        if rank != 0:
            ray.train.report(metrics)
            return
        commit_bytes(metrics_uri, "".join(json.dumps(row) + "\n" for row in rows).encode())
        with tempfile.TemporaryDirectory() as scratch:
            write_checkpoint(Path(scratch))
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(scratch))

    def fit(restore: Path | None) -> Segmenter:
        context = TrainContext(
            rank=rank,
            world_size=ray.train.get_context().get_world_size(),
            device=get_device(),
            wrap=prepare_model,
            report=report,
            restore=restore,
            amp=loop["amp"],
        )
        return train(segmenter, job, context)

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        trained = fit(None)
    else:
        if rank == 0 and exists(metrics_uri):
            rows += [json.loads(line) for line in read_bytes(metrics_uri).decode().splitlines()]
        with checkpoint.as_directory() as restored:
            trained = fit(Path(restored))
    if rank == 0:
        save_segmenter(trained, run.path(folder), loop["description"])
