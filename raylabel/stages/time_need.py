"""How long a run takes on this machine, from a few training steps and predictions: `raylabel check --time`."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

from raylabel.cluster.capacity import torch_threads
from raylabel.cluster.predictor import Predictor
from raylabel.config import Config, TrainingConfig
from raylabel.errors import InputError
from raylabel.models.saved import save_segmenter
from raylabel.models.segmenter import Segmenter
from raylabel.run.data import RunData
from raylabel.run.folder import STAGES, RunFolder
from raylabel.stages.pool_sample import NUM_IMAGES
from raylabel.stages.states import AGAIN, NEW
from raylabel.stages.training_jobs import class_targets, describe_model, labelled_examples, new_segmenter, warmup_steps
from raylabel.threads import num_cpus
from raylabel.training.job import TrainContext, TrainJob
from raylabel.training.loop import REPORT_EVERY_STEPS, train

NUM_STEPS = 2 * REPORT_EVERY_STEPS
"""Steps of a trial. The first half warms up, and the second is measured."""
NUM_POOL_IMAGES = 32
"""Images that are read and predicted, half of them to warm up."""
START_SECONDS = {"run": 10.0, "training": 6.0, "workers": 3.0}
"""Seconds until Ray, a training and the workers of a stage have started, from the demo on 2 cores."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Measured speed of this machine.

    Attributes:
        teacher_step, student_step: seconds per optimizer step.
        image: seconds per predicted image on one worker.
        num_label_workers: workers that predict at the same time.
    """

    teacher_step: float
    student_step: float
    image: float
    num_label_workers: float

    def images(self, num_images: float) -> float:
        """Return the seconds for predictions of images by all workers."""
        return num_images * self.image / self.num_label_workers


def measure_speed(config: Config, run: RunFolder) -> Speed:
    """Train `NUM_STEPS` steps of teacher and student, and predict a few images of the pool. Nothing is kept.

    Each worker of a training is taken to have its own CPU or GPU, and its own part of a step's images.

    Raises:
        InputError: the config wants GPUs, and this machine has none.
    """
    data = RunData(config, run)
    if config.teacher.steps:
        teacher_step, teacher = _seconds_a_step(config, data, "teacher", config.teacher.batch_size)
    else:  # a given teacher, which may only predict
        teacher = new_segmenter(config.teacher, num_classes=data.labelled.num_classes, seed=config.seed)
        teacher_step = 0.0
    num_images = config.student.labelled_per_batch + config.student.unlabelled_per_batch
    student_step, _ = _seconds_a_step(config, data, "student", num_images)
    label = config.label
    num_workers = 1.0
    if label.num_workers != "auto":
        num_workers = label.num_workers
    elif label.num_gpus:
        num_workers = max(1.0, torch.cuda.device_count() // label.num_gpus)
    else:
        num_workers = max(1, int(num_cpus() / (label.num_cpus or 1)))
    if not label.num_gpus:
        num_workers = min(num_workers, num_cpus() / max(1.0, label.num_cpus))
    return Speed(
        teacher_step=teacher_step,
        student_step=student_step,
        image=_seconds_an_image(config, data, teacher),
        num_label_workers=num_workers,
    )


def stage_seconds(config: Config, run: RunFolder, found: dict[str, Any], speed: Speed) -> dict[str, float]:
    """Estimate the seconds of every stage that would run.

    Args:
        config: the run's config.
        run: the run folder.
        found: what `check_run` found.
        speed: the speed of this machine.
    """
    splits = {name: split["num_images"] for name, split in found["splits"].items()}
    num_pool, student = found["pool"]["num_images"], config.student
    num_sample = min(NUM_IMAGES, num_pool)
    training, workers = START_SECONDS["training"], START_SECONDS["workers"]
    warmup = min(warmup_steps(config), config.teacher.steps)
    num_folds = config.calibration.folds
    num_calibration = splits["labelled"] if num_folds else splits["calibration"]
    calibrated = workers + speed.images(num_calibration)
    if num_folds:
        calibrated += training + num_folds * config.teacher.steps * speed.teacher_step + speed.images(2 * num_sample)
    num_trained = 2 if student.supervised_baseline else 1
    labelled = workers + speed.images(num_pool)
    distilled = training + num_trained * student.steps * speed.student_step
    # Every model predicts the validation split. Student and baseline get correctors, by the pool's sample if they have
    # learnt from the calibration split.
    corrected = 2 * num_sample if config.student_learns_calibration else num_calibration
    evaluated = num_trained * (workers + speed.images(corrected)) + workers
    evaluated += speed.images((1 + num_trained) * splits["validation"])
    seconds = {
        "prototypes": workers
        + (training if warmup else 0)
        + warmup * speed.teacher_step
        + speed.images(splits["labelled"]),
        "teacher": training + (config.teacher.steps - warmup) * speed.teacher_step if config.teacher.steps else 0.0,
        "calibrate": calibrated,
        "label": labelled,
        "distill": distilled
        + (student.rounds - 1) * (labelled + calibrated + training + student.steps * speed.student_step),
        "evaluate": evaluated,
        "report": workers,
    }
    return {spec.name: seconds[spec.name] for spec in STAGES if found["stages"][spec.name] in (NEW, AGAIN)}


def format_time(seconds: dict[str, float], *, price_per_hour: float | None = None) -> str:
    """Return a line per stage, their sum, and its price."""
    total = sum(seconds.values()) + (START_SECONDS["run"] if seconds else 0)
    lines = [f"{'time':<12} on this machine, from {NUM_STEPS} steps and {NUM_POOL_IMAGES} images, about:"]
    lines += [f"  {stage:<11} {_duration(one)}" for stage, one in seconds.items()]
    lines.append(f"  {'all':<11} {_duration(total)}")
    if price_per_hour is not None:
        lines.append(f"  {'price':<11} {total / 3600 * price_per_hour:,.2f}, at {price_per_hour:g} per hour")
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:,.1f} h"


def _seconds_a_step(
    config: Config, data: RunData, role: Literal["teacher", "student"], num_images: int
) -> tuple[float, Segmenter]:
    """Train a fresh model on labelled images. Return the seconds per step, and the model."""
    settings: TrainingConfig = getattr(config, role)
    labelled = data.labelled
    device = _device(settings.gpus_per_worker, f"{role}.gpus_per_worker")
    job = TrainJob(
        settings=settings,
        steps=NUM_STEPS,
        labelled=labelled_examples(config, labelled, class_targets(config, labelled, None, kind="none"), settings),
        labelled_per_batch=math.ceil(num_images / settings.num_workers),
        seed=config.seed,
    )
    ends: list[float] = []
    segmenter = new_segmenter(settings, num_classes=labelled.num_classes, seed=config.seed)
    context = TrainContext(device=device, report=lambda step, figures: ends.append(time.perf_counter()))
    with _torch_threads(max(1, int(settings.cpus_per_worker))):
        train(segmenter, job, context)
    crowding = 1.0 if settings.gpus_per_worker else max(1.0, settings.num_workers / num_cpus())
    return crowding * (ends[-1] - ends[-2]) / REPORT_EVERY_STEPS, segmenter


def _seconds_an_image(config: Config, data: RunData, segmenter: Segmenter) -> float:
    """Read and predict images of the pool by one worker. Return the seconds per image, without the first half."""
    label = replace(config.label, decoding="threads")
    _device(label.num_gpus, "label.num_gpus")
    sources = [image.source for image in islice((one for one in data.list_pool() if not one.refusal), NUM_POOL_IMAGES)]
    half = len(sources) // 2
    with TemporaryDirectory() as folder, _torch_threads(torch_threads(label)):
        save_segmenter(segmenter, folder, describe_model(config.teacher, "trial"))
        predict = Predictor(folder, label, max_pixels=config.data.max_image_pixels, own_classes=config.own_classes)
        for _ in predict(sources[:half]):
            pass
        start = time.perf_counter()
        for _ in predict(sources[half:]):
            pass
        return (time.perf_counter() - start) / max(1, len(sources) - half)


@contextmanager
def _torch_threads(num_threads: int) -> Iterator[None]:
    """Let torch use as many threads as a worker has."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _device(num_gpus: float, setting: str) -> torch.device:
    if num_gpus and not torch.cuda.is_available():
        raise InputError(f"--time: {setting} is {num_gpus:g}, but this machine has no GPU. Ask on one that has.")
    return torch.device("cuda" if num_gpus else "cpu")
