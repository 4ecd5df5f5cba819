"""The work of every training worker: build, restore, train, save."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray.train
import torch
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import get_device, prepare_model

from raylabel.cluster.batch_readers import JobBuilder, TaskBatches
from raylabel.cluster.capacity import decodes_by_tasks
from raylabel.cluster.preemption import PreemptionNotice
from raylabel.config import TrainingConfig
from raylabel.files.digests import digest
from raylabel.models.saved import save_segmenter
from raylabel.run.folder import RunFolder
from raylabel.run.models import CHECKPOINTS, is_saved_as, remove_checkpoints
from raylabel.training.checkpoints import Checkpoints, Snapshot
from raylabel.training.log import TrainingLog
from raylabel.training.loop import TrainContext, train

REPORT_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Training:
    """One model to train.

    Attributes:
        build: see `JobBuilder`. Each worker calls it.
        folder: folder in the run for the model and metrics.jsonl.
        num_steps: number of the job's steps, for the progress line.
        identity: JSON-able value. A saved model or checkpoint with another identity is not used.
        description: content of model.json.
    """

    build: JobBuilder
    folder: str
    num_steps: int
    identity: Any
    description: dict[str, Any]

    def is_saved(self, run: RunFolder) -> bool:
        """Whether the trained model is saved in the run."""
        return is_saved_as(run, self.folder, self.identity)

    def checkpoints(self, run: RunFolder, settings: TrainingConfig) -> Checkpoints:
        """Return the training's checkpoints in the run."""
        uri = run.path(self.folder, CHECKPOINTS)
        return Checkpoints(uri, identity=digest(self.identity), keep=settings.keep_checkpoints)


@dataclass(frozen=True, kw_only=True)
class WorkerPlan:
    """The work of the workers of a Ray Train run.

    Attributes:
        trainings: trained one after the other. Saved models are left out.
        run: the run folder.
        settings: settings of the trainings.
        counter: a progress_counter.LiveCounter.
        attempt: number of this attempt at the trainings.
    """

    trainings: Sequence[Training]
    run: RunFolder
    settings: TrainingConfig
    counter: Any
    attempt: int = 1

    def missing(self) -> list[Training]:
        """Return the trainings whose model is not saved."""
        return [training for training in self.trainings if not training.is_saved(self.run)]

    def place(self) -> str:
        """Return the place from which workers would start now."""
        missing = self.missing()
        if not missing:
            return "the end"
        return f"step {missing[0].checkpoints(self.run, self.settings).last_step() or 0} of {missing[0].folder}"


def train_worker(config: dict[str, Any]) -> None:
    """Train the planned models inside a DDP worker. Ray Train ends all workers when one fails."""
    plan: WorkerPlan = config["plan"]
    torch.set_num_threads(max(1, int(plan.settings.cpus_per_worker)))
    context = ray.train.get_context()
    plan.counter.start.remote(plan.attempt, context.get_world_rank(), context.get_world_size())
    # One rank decides before any rank saves a model, because all ranks must decide the same.
    missing = broadcast_from_rank_zero([training.folder for training in plan.missing()])
    for training in plan.trainings:
        if training.folder in missing:
            _train_and_save(training, plan)


def _train_and_save(training: Training, plan: WorkerPlan) -> None:
    run, counter = plan.run, plan.counter
    rank = ray.train.get_context().get_world_rank()
    checkpoints = training.checkpoints(run, plan.settings)
    restore = _restored(checkpoints, rank)
    build_segmenter, job = training.build()
    log = TrainingLog(run.path(training.folder), finished_steps=restore.step if restore else 0) if rank == 0 else None
    last_report = 0.0

    def report(step: int, metrics: dict[str, float]) -> None:
        nonlocal last_report
        if log is None:
            return
        log.add(step, metrics)
        if time.monotonic() - last_report > REPORT_SECONDS:
            last_report = time.monotonic()
            note = f"{metrics['images_per_second']:.3g} images/s  loss {metrics['loss']:.3f}"
            counter.report.remote(training.folder, step - job.start_step, note=note)

    def save(snapshot: Snapshot) -> None:
        if log is not None:
            log.commit()
        checkpoints.save(snapshot)

    context = TrainContext(
        rank=rank,
        world_size=ray.train.get_context().get_world_size(),
        num_parts=plan.settings.num_workers * plan.settings.optimizer.accumulate,
        device=get_device(),
        wrap=prepare_model,
        report=report,
        restore=restore,
        save=save,
        open_batches=partial(TaskBatches, training.build) if decodes_by_tasks(plan.settings) else None,
        wants_checkpoint=PreemptionNotice(),
    )
    trained = train(build_segmenter(), job, context)
    if log is not None:
        log.close()
        checkpoints.wait()
        counter.report.remote(training.folder, training.num_steps)
        description = {**training.description, "identity": digest(training.identity)}
        save_segmenter(trained, run.path(training.folder), description)
        remove_checkpoints(run, training.folder)


def _restored(checkpoints: Checkpoints, rank: int) -> Snapshot | None:
    """Load the state to resume from, the same on every rank."""
    latest = checkpoints.load_latest() if rank == 0 else None
    step = broadcast_from_rank_zero(latest.step if latest else None)
    if rank == 0 or step is None:
        return latest
    snapshot = checkpoints.load(step)
    if snapshot is None:
        raise RuntimeError(f"the checkpoint of step {step} is gone")  # a restart finds another checkpoint
    return snapshot
