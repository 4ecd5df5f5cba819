"""The training jobs of warm-up, teacher, fold teachers, student and supervised baseline.

Each `*_job` runs inside a DDP worker. Its arguments are plain values, so that it can be sent there. It returns the
builder of the model and the job, because readers of batches need the job alone.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raylabel.cluster.shard_tasks import map_over_shards
from raylabel.config import Config, SmoothingKind, TrainingConfig, config_dict, parse_config
from raylabel.dataset.annotations import AnnotatedSet
from raylabel.models.build import build_segmenter
from raylabel.models.saved import load_segmenter
from raylabel.models.segmenter import Segmenter
from raylabel.models.weights.loading import weights_identity
from raylabel.run.calibration import load_corrector
from raylabel.run.classes import load_classes
from raylabel.run.data import RunData
from raylabel.run.folder import RunFolder
from raylabel.run.labels.shards import committed_shards
from raylabel.run.models import EMBEDDER, TEACHER, pool_index_uri
from raylabel.run.prototypes import load_similarity
from raylabel.smoothing import soft_targets
from raylabel.training.augment.views import view
from raylabel.training.batches import POOL_STREAM, step_seed
from raylabel.training.ema import MovingAverage
from raylabel.training.examples import LabelledExamples
from raylabel.training.federated import federated_classes
from raylabel.training.job import Evaluate, SegmenterBuilder, TrainJob
from raylabel.training.pool.choice import PoolChoice
from raylabel.training.pool.index import PoolIndex, ensure_index
from raylabel.training.pool.relabel import Relabeller, Relabelling
from raylabel.training.pool.stream import PoolStream
from raylabel.training.pool.targets import PoolTargets
from raylabel.training.validation import ValidationAP

RESOURCES = (
    "num_workers",
    "min_workers",
    "cpus_per_worker",
    "memory_gb_per_worker",
    "gpus_per_worker",
    "checkpoint_every",
    "decoding",
    "keep_checkpoints",
    "evaluate_every",
    "evaluate_images",
)
"""Training settings that leave the trained model unchanged.

They set where the model is trained and what is written meanwhile.
"""

SPEED = ("accumulate", "precision", "channels_last", "compile")
"""Optimizer settings that change the speed of training. They change the weights by rounding alone, except `accumulate`:
it changes the number of parts of a step, and each part has its own random choices."""


NOT_TRAINING = ("rounds", "learn_from_calibration")
"""Settings of the student that do not change how one student is trained.

The fingerprint has the images of the calibration split instead, if the student learns from them.
"""


def training_inputs(settings: TrainingConfig) -> dict[str, Any]:
    """Return the settings that a trained model depends on, for fingerprints. Weights count by name or content."""
    left_out = (*RESOURCES, *NOT_TRAINING)
    inputs = {name: value for name, value in config_dict(settings).items() if name not in left_out}
    inputs["optimizer"] = {name: value for name, value in inputs["optimizer"].items() if name not in SPEED}
    return inputs | {"weights": weights_identity(settings.weights) if settings.weights else None}


def warmup_steps(config: Config) -> int:
    """Return the warm-up steps of this config: 0 if weights or an embedder are given."""
    return 0 if config.smoothing.embedder or config.teacher.weights else config.smoothing.warmup_steps


def new_segmenter(settings: TrainingConfig, *, num_classes: int, seed: int) -> Segmenter:
    """Build the configured model with pretrained weights, or with random weights from the seed."""
    torch.manual_seed(seed)
    return build_segmenter(
        settings.model,
        num_classes=num_classes,
        weights=settings.weights,
        min_size=settings.min_size,
        options=settings.model_options,
    )


def _saved_segmenter(uri: str, own_classes: tuple[str, ...]) -> Segmenter:
    return load_segmenter(uri, own_classes)[0]


def describe_model(settings: TrainingConfig, role: str) -> dict[str, Any]:
    """Return the content of model.json for a model that these settings train."""
    return {
        "model": settings.model,
        "min_size": settings.min_size,
        "model_options": settings.model_options,
        "role": role,
    }


def fold_rows(num_images: int, fold: int, num_folds: int, seed: int) -> NDArray[np.int64]:
    """Return the rows of the labelled set that one fold's teacher does not see. Every row is in exactly one fold."""
    return np.sort(np.random.default_rng(seed).permutation(num_images)[fold::num_folds])


def warmup_job(settings: dict[str, Any], run: RunFolder) -> tuple[SegmenterBuilder, TrainJob]:
    """Build the embedder's job: the first steps of the teacher's schedule, without smoothing."""
    config = parse_config(settings)
    labelled = RunData(config, run).labelled
    job = _teacher_schedule(
        config, labelled, class_targets(config, labelled, None, kind="none"), stop=warmup_steps(config)
    )
    return partial(new_segmenter, config.teacher, num_classes=labelled.num_classes, seed=config.seed), job


def teacher_job(settings: dict[str, Any], run: RunFolder) -> tuple[SegmenterBuilder, TrainJob]:
    """Build the teacher's job. The teacher continues from the embedder, with smoothed targets."""
    config = parse_config(settings)
    data = RunData(config, run)
    labelled = data.labelled
    targets = class_targets(config, labelled, load_similarity(run), kind=config.smoothing.kind)
    if config.smoothing.embedder:
        build = partial(new_segmenter, config.teacher, num_classes=labelled.num_classes, seed=config.seed)
    else:
        build = partial(_saved_segmenter, run.path(EMBEDDER), config.own_classes)
    job = _teacher_schedule(config, labelled, targets, start=warmup_steps(config))
    return build, replace(job, evaluate=evaluation(data, config.teacher))


def fold_teacher_job(settings: dict[str, Any], run: RunFolder, fold: int) -> tuple[SegmenterBuilder, TrainJob]:
    """Build the job of the teacher that doesn't see a fold. It starts from scratch: the embedder saw every fold."""
    config = parse_config(settings)
    everything = RunData(config, run).labelled
    held_out = fold_rows(len(everything), fold, config.calibration.folds, config.seed)
    labelled = everything.subset(np.setdiff1d(np.arange(len(everything)), held_out))
    targets = class_targets(config, labelled, load_similarity(run), kind=config.smoothing.kind)
    build = partial(new_segmenter, config.teacher, num_classes=labelled.num_classes, seed=config.seed)
    return build, _teacher_schedule(config, labelled, targets)


def student_job(settings: dict[str, Any], run: RunFolder, with_pool: bool) -> tuple[SegmenterBuilder, TrainJob]:
    """Build the student's job. Without the pool, build the supervised baseline's job with labelled images instead.

    The number of images per step is the same in both.
    """
    config = parse_config(settings)
    student, data = config.student, RunData(config, run)
    labelled = data.student_labelled
    if student.init == "teacher":
        build = partial(_saved_segmenter, run.path(TEACHER), config.own_classes)
    else:
        build = partial(new_segmenter, student, num_classes=labelled.num_classes, seed=config.seed)
    job = TrainJob(
        settings=student,
        steps=student.steps,
        labelled=labelled_examples(config, labelled, class_targets(config, labelled, None, kind="none"), student),
        labelled_per_batch=student.labelled_per_batch + (0 if with_pool else student.unlabelled_per_batch),
        pool=pool_stream(config, run) if with_pool and student.unlabelled_per_batch else None,
        relabel=relabelling(config, run) if with_pool and student.burn_in_steps is not None else None,
        unlabelled_per_batch=student.unlabelled_per_batch if with_pool else 0,
        unlabelled_weight=student.unlabelled_weight,
        pool_losses=student.pool_losses,
        evaluate=evaluation(data, student),
        seed=config.seed + 1,
    )
    return build, job


def class_targets(
    config: Config, labelled: AnnotatedSet, similarity: NDArray[np.float64] | None, *, kind: SmoothingKind
) -> NDArray[np.float32]:
    """Compute the soft target of each class, shape (num_classes, num_classes + 1)."""
    return soft_targets(
        kind=kind,
        counts=labelled.class_image_counts(),
        eps_min=config.smoothing.eps_min,
        eps_max=config.smoothing.eps_max,
        tau=config.smoothing.tau,
        similarity=similarity,
    )


def labelled_examples(
    config: Config, labelled: AnnotatedSet, targets: NDArray[np.float32], training: TrainingConfig
) -> LabelledExamples:
    """Build the training examples of an annotated set.

    Raises:
        InputError: a federated loss is asked for, but the set is annotated exhaustively.
    """
    return LabelledExamples(
        labelled,
        targets,
        max_pixels=config.data.max_image_pixels,
        augment=view(training.augmentation),
        copy_paste=training.augmentation.copy_paste,
        repeat_threshold=training.repeat_threshold,
        federated=federated_classes(labelled, training.federated_loss),
    )


def evaluation(data: RunData, settings: TrainingConfig) -> Evaluate | None:
    """Return the evaluation of a model during its training, None if there is none."""
    if not settings.evaluate_every:
        return None
    return ValidationAP(
        lambda: data.validation,
        num_images=settings.evaluate_images,
        frequency_groups=data.measured_groups.of_category,
        max_pixels=data.config.data.max_image_pixels,
    )


def pool_choice(config: Config, run: RunFolder) -> PoolChoice:
    """Return the rule that chooses the stored predictions for the student."""
    student = config.student
    return PoolChoice(
        selection=config.selection,
        frequency_groups=load_classes(run).frequency_groups,
        min_foreground=student.min_foreground if student.select_by == "foreground" else None,
    )


def pool_targets(config: Config) -> PoolTargets:
    """Return the rule that turns chosen predictions into the student's targets."""
    student = config.student
    return PoolTargets(
        is_soft=student.targets == "soft",
        is_corrected=student.correct_targets,
        weight_by_score=student.weight_by_score,
        weight_by_quality=student.weight_masks_by == "quality",
        doubtful_score=student.doubtful_score,
    )


def ensure_pool_index(config: Config, run: RunFolder) -> PoolIndex:
    """Return the student's index of the run's labels. Build it if it is missing."""
    return ensure_index(
        pool_index_uri(run),
        committed_shards(run),
        pool_choice(config, run),
        threshold=config.student.repeat_threshold,
        label=run.title("pool index"),
        map_groups=map_over_shards,
    )


def pool_stream(config: Config, run: RunFolder) -> PoolStream:
    """Build the stream of pseudo-labels for the student."""
    burn_in = config.student.burn_in_steps
    return PoolStream(
        run,
        ensure_pool_index(config, run),
        pool_choice(config, run),
        pool_targets(config),
        seed=step_seed(config.seed + 1, 0, POOL_STREAM),
        max_pixels=config.data.max_image_pixels,
        augment=view(config.student.strong_view),
        weak_view=view(config.student.augmentation),
        unlabelled_from=None if burn_in is None else burn_in * config.student.unlabelled_per_batch,
    )


def relabelling(config: Config, run: RunFolder) -> Callable[[Segmenter, MovingAverage], Relabeller]:
    """Return the builder of the relabeller. It labels the pool by the moving average of the student's weights."""
    assert config.student.burn_in_steps is not None
    how = Relabelling(
        from_step=config.student.burn_in_steps,
        corrector=load_corrector(run),
        choice=pool_choice(config, run),
        targets=pool_targets(config),
        score_threshold=config.label.score_threshold,
        max_per_image=config.label.max_per_image,
        mask_quality=config.label.mask_quality,
        augment=view(config.student.strong_view),
    )
    return partial(Relabeller, how)


def _teacher_schedule(
    config: Config,
    labelled: AnnotatedSet,
    targets: NDArray[np.float32],
    *,
    start: int = 0,
    stop: int | None = None,
) -> TrainJob:
    return TrainJob(
        settings=config.teacher,
        start_step=start,
        stop_step=stop,
        steps=config.teacher.steps,
        labelled=labelled_examples(config, labelled, targets, config.teacher),
        labelled_per_batch=config.teacher.batch_size,
        seed=config.seed,
    )
