"""The steps of the distillation benchmark on one world: teachers, corrected pseudo-labels, students, evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from distillation_world import Split, World
from numpy.typing import NDArray

from raylabel.calibration import Detections, FitContext, ImagePredictions, ReliabilityBins, fit_corrector, match_set
from raylabel.calibration.correctors.kinds import corrector_class
from raylabel.calibration.correctors.soft import correct_soft_vectors
from raylabel.calibration.metrics import ccece, ece, nll, pooled_average_precision
from raylabel.config import CorrectorKind, MaskQuality, OptimizerConfig, PoolLosses, SmoothingKind, TrainingConfig
from raylabel.dataset.sampling import RepeatFactorSampler, repeat_factors
from raylabel.evaluation.average_precision import evaluate_results, results_of_image
from raylabel.masks.rle import decode_masks
from raylabel.models.build import build_segmenter
from raylabel.models.predict import predict_images
from raylabel.models.segmenter import Segmenter, Target
from raylabel.predictions.instances import Instances, instances_context
from raylabel.smoothing import PrototypeSums, class_similarity, soft_targets
from raylabel.training.augment.views import Augment, strong_augmentation, weak_augmentation
from raylabel.training.examples import target_of
from raylabel.training.job import TrainContext, TrainJob
from raylabel.training.loop import train

TEACHER_RATE, STUDENT_RATE, EMA_DECAY = 3e-3, 2e-3, 0.998
FOREGROUND, DOUBTFUL = 0.5, 0.1
"""Smallest foreground probabilities of pool instances that are learnt, and of those that are doubtful."""
SCORE_THRESHOLD, MAX_PER_IMAGE = 0.02, 50
POOL_BINS = 100
BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Arm:
    """The training of a student, starting from the teacher's weights.

    Attributes:
        corrector: kind of the corrector of the pool's soft vectors.
        is_hard: use one-hot targets of the predicted class.
        pool_losses: weights of the pool's loss terms. None trains on labelled images alone, with the same number of
            images per step.
        with_calibration: use the calibration images as labelled images too.
        is_constant: keep the constant learning rate of the teacher.
        teacher: the model whose predictions are learnt: "teacher", or an arm of an earlier round.
        by_quality: weight boxes and masks by mask quality.
        mask_quality: kind of mask quality, for weights and for correctors that use context.
        num_calibration: number of calibration images for the corrector; None uses all.
        is_cross_fitted: fit the corrector on the labelled images, with predictions of teachers that saw other folds.
    """

    corrector: CorrectorKind = "none"
    is_hard: bool = False
    pool_losses: PoolLosses | None = field(default_factory=PoolLosses)
    with_calibration: bool = False
    is_constant: bool = False
    teacher: str = "teacher"
    by_quality: bool = False
    mask_quality: MaskQuality = "probability"
    num_calibration: int | None = None
    is_cross_fitted: bool = False


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Numbers of steps, and of images per step.

    Attributes:
        warmup: unsmoothed steps that all teachers share. Prototypes are made after them.
        teacher: steps of a teacher, including the warm-up.
        student: steps of a student.
        teacher_batch, labelled_batch, pool_batch: images per step.
        is_bf16: train in bfloat16.
    """

    warmup: int = 1000
    teacher: int = 2500
    student: int = 600
    teacher_batch: int = 8
    labelled_batch: int = 4
    pool_batch: int = 12
    is_bf16: bool = False

    def optimizer(self, rate: float, *, is_constant: bool) -> OptimizerConfig:
        """Make the optimizer settings of a teacher or a student."""
        return OptimizerConfig(
            learning_rate=rate,
            schedule="constant" if is_constant else "cosine",
            ema_decay=EMA_DECAY,
            precision="bf16" if self.is_bf16 else "fp32",
        )


class MemoryExamples:
    """Images in memory with their targets. See `raylabel.training.examples.Examples`."""

    def __init__(self, split: Split, targets: Sequence[Target], augment: Augment) -> None:
        self.num_classes = split.annotated.num_classes
        self._split, self._targets, self._augment = split, targets, augment

    def __len__(self) -> int:
        return len(self._split)

    def image_classes(self) -> list[NDArray[np.int32]]:
        """Return the learnt classes per image."""
        return [
            np.unique(target.class_probs[target.weights > 0][:, :-1].argmax(dim=1).numpy()).astype(np.int32)
            for target in self._targets
        ]

    def image_id(self, index: int) -> str:
        """Return the image id of the split."""
        return str(self._split.annotated.images[index].image_id)

    def load(self, index: int, rng: np.random.Generator) -> tuple[torch.Tensor, Target]:
        """Return an augmented image and its target."""
        return self._augment(self._split.tensor(index), self._targets[index], rng)


class MemoryStream:
    """The pool, drawn by repeat factors. See `raylabel.training.examples.ExampleStream`."""

    def __init__(self, examples: MemoryExamples, seed: int) -> None:
        factors = repeat_factors(examples.image_classes(), examples.num_classes, TrainingConfig().repeat_threshold)
        self._examples, self._sampler = examples, RepeatFactorSampler(factors, 1, seed=seed)

    def image_id(self, draw: int) -> str:
        """Return the image id of a draw."""
        return self._examples.image_id(int(self._sampler.batch(draw)[0]))

    def load(self, draw: int, rng: np.random.Generator) -> tuple[torch.Tensor, Target]:
        """Return the image of a draw and its target."""
        return self._examples.load(int(self._sampler.batch(draw)[0]), rng)


def true_targets(split: Split, class_targets: NDArray[np.float32]) -> list[Target]:
    """Build targets from the annotated objects, with one soft target per class."""
    targets = []
    for row in range(len(split)):
        truth = split.annotated.ground_truth(row)
        targets.append(
            Target(
                boxes_xyxy=torch.from_numpy(truth.boxes_xyxy),
                masks_NHW=torch.from_numpy(decode_masks(list(truth.masks), truth.image_size_hw)),
                class_probs=torch.from_numpy(class_targets[truth.class_indices]),
                weights=torch.ones(len(truth)),
            )
        )
    return targets


def one_hot(split: Split) -> NDArray[np.float32]:
    """Return class targets without smoothing."""
    return np.eye(split.annotated.num_classes, split.annotated.num_classes + 1, dtype=np.float32)


def smoothed(
    split: Split, kind: SmoothingKind, similarity: NDArray[np.float64] | None, eps_max: float
) -> NDArray[np.float32]:
    """Return the smoothed class targets of the labelled split."""
    return soft_targets(
        kind=kind,
        counts=split.annotated.class_image_counts(),
        eps_min=min(0.02, eps_max),
        eps_max=eps_max,
        tau=0.1,
        similarity=similarity,
    )


def train_teacher(
    labelled: Split,
    seed: int,
    lengths: Lengths,
    *,
    class_targets: NDArray[np.float32],
    start: int,
    stop: int,
    state: dict[str, torch.Tensor] | None = None,
) -> Segmenter:
    """Train steps `start` to `stop` at a constant rate, from random weights or from a state."""
    segmenter = new_segmenter(labelled, seed, state)
    job = TrainJob(
        settings=TrainingConfig(optimizer=lengths.optimizer(TEACHER_RATE, is_constant=True)),
        steps=lengths.teacher,
        start_step=start,
        stop_step=stop,
        labelled=MemoryExamples(labelled, true_targets(labelled, class_targets), weak_augmentation),
        labelled_per_batch=lengths.teacher_batch,
        seed=seed,
    )
    return train(segmenter, job, TrainContext())


def train_student(
    world: World,
    arm: Arm,
    pool_targets: Sequence[Target] | None,
    seed: int,
    lengths: Lengths,
    state: dict[str, torch.Tensor],
) -> Segmenter:
    """Train a student from the teacher's state."""
    labelled = world["labelled"] + world["calibration"] if arm.with_calibration else world["labelled"]
    with_pool = arm.pool_losses is not None
    num_labelled = lengths.labelled_batch + (0 if with_pool else lengths.pool_batch)
    job = TrainJob(
        settings=TrainingConfig(
            optimizer=lengths.optimizer(TEACHER_RATE if arm.is_constant else STUDENT_RATE, is_constant=arm.is_constant)
        ),
        steps=lengths.student,
        labelled=MemoryExamples(labelled, true_targets(labelled, one_hot(labelled)), weak_augmentation),
        labelled_per_batch=num_labelled,
        pool=None
        if pool_targets is None
        else MemoryStream(MemoryExamples(world["pool"], pool_targets, strong_augmentation), seed),
        unlabelled_per_batch=lengths.pool_batch if with_pool else 0,
        pool_losses=arm.pool_losses or PoolLosses(),
        seed=seed + 1,
    )
    return train(new_segmenter(labelled, seed, state), job, TrainContext())


def new_segmenter(split: Split, seed: int, state: dict[str, torch.Tensor] | None = None) -> Segmenter:
    """Build the tiny model with random weights or with a state."""
    torch.manual_seed(seed)
    segmenter = build_segmenter("tiny_maskrcnn", num_classes=split.annotated.num_classes)
    if state is not None:
        segmenter.load_state_dict(state)
    return segmenter


def predict(segmenter: Segmenter, split: Split, mask_quality: MaskQuality = "probability") -> list[Instances]:
    """Predict every image of a split."""
    found: list[Instances] = []
    with torch.inference_mode():
        for start in range(0, len(split), BATCH):
            images = [split.tensor(row) for row in range(start, min(start + BATCH, len(split)))]
            found += predict_images(
                segmenter,
                images,
                score_threshold=SCORE_THRESHOLD,
                max_per_image=MAX_PER_IMAGE,
                mask_quality=mask_quality,
            )
    return found


def fold_predictions(labelled: Split, seed: int, lengths: Lengths, num_folds: int) -> list[Instances]:
    """Predict every labelled image with a teacher that was trained without its fold.

    Fold teachers train for as many epochs as the teacher of all images.
    """
    found: dict[int, Instances] = {}
    steps = round(lengths.teacher * (1 - 1 / num_folds))
    for fold in np.array_split(np.random.default_rng(seed).permutation(len(labelled)), num_folds):
        rest = labelled.rows(np.setdiff1d(np.arange(len(labelled)), fold))
        teacher = train_teacher(rest, seed, lengths, class_targets=one_hot(labelled), start=0, stop=steps)
        found |= zip(fold.tolist(), predict(teacher.eval(), labelled.rows(fold)), strict=True)
    return [found[row] for row in range(len(labelled))]


def class_similarity_at(segmenter: Segmenter, labelled: Split, layer: str) -> NDArray[np.float64]:
    """Compute class similarity from prototypes of a layer's features."""
    sums = None
    targets = true_targets(labelled, one_hot(labelled))
    for row, target in enumerate(targets):
        embeddings = segmenter.embed([labelled.tensor(row)], [target], layer=layer).numpy()
        part = PrototypeSums.of_instances(
            embeddings, target.class_probs.argmax(dim=1).numpy(), num_classes=labelled.annotated.num_classes
        )
        sums = part if sums is None else sums + part
    assert sums is not None
    return class_similarity(sums.prototypes(), sums.counts)


def matched(split: Split, found: Sequence[Instances]) -> Detections:
    """Match predictions to the truth of a split."""
    predictions = {
        row: ImagePredictions(one.class_indices, one.raw_scores, one.masks, instances_context(one))
        for row, one in enumerate(found)
    }
    return match_set(split.annotated, predictions)


def held_out_detections(world: World, predictions: Sequence[Instances], num_images: int | None = None) -> Detections:
    """Match the predictions of the calibration split, or of its first `num_images` images."""
    num = len(predictions) if num_images is None else num_images
    return matched(world["calibration"].rows(np.arange(num)), predictions[:num])


def as_detections(found: Sequence[Instances], num_classes: int) -> Detections:
    """Join the predictions of all images, without truth."""
    return Detections.of_scores(
        np.concatenate([one.class_indices for one in found]),
        np.concatenate([one.raw_scores for one in found]),
        num_classes=num_classes,
        context=np.concatenate([instances_context(one) for one in found]),
    )


def corrected(
    kind: CorrectorKind, world: World, held_out: Detections, found: Sequence[Instances], *, is_pool: bool
) -> list[NDArray[np.float32]]:
    """Correct soft vectors with a corrector that was fitted to matched predictions of held-out images."""
    if kind == "none":
        return [one.soft_vectors for one in found]
    labelled = world["labelled"].annotated
    everything = as_detections(found, labelled.num_classes)
    unmatched = Detections.of_scores(everything.class_indices, everything.raw_scores, num_classes=labelled.num_classes)
    context = FitContext(
        frequency_groups=labelled.frequency_groups(),
        num_train_images=labelled.class_image_counts(),
        pool_histogram=_histogram(unmatched) if is_pool and corrector_class(kind).uses_pool else None,
    )
    corrector = fit_corrector(kind, held_out, context=context)
    scores = np.split(corrector(everything), np.cumsum([len(one) for one in found])[:-1])
    return [
        correct_soft_vectors(one.soft_vectors, one.class_indices, of_image)
        for one, of_image in zip(found, scores, strict=True)
    ]


def _histogram(detections: Detections) -> ReliabilityBins:
    outcomes = np.zeros(len(detections), np.int8)
    return ReliabilityBins.from_detections(replace(detections, outcomes=outcomes), POOL_BINS)


def pool_targets(
    found: Sequence[Instances],
    soft_vectors: Sequence[NDArray[np.float32]],
    *,
    is_hard: bool = False,
    by_quality: bool = False,
) -> list[Target]:
    """Build the targets of the pool. The teacher's vectors decide the objects, the corrected vectors their classes."""
    targets = []
    for one, vectors in zip(found, soft_vectors, strict=True):
        foreground = 1 - one.soft_vectors[:, -1]
        rows = np.flatnonzero(foreground >= DOUBTFUL)
        probs = vectors[rows]
        if is_hard:
            probs = np.eye(vectors.shape[1], dtype=np.float32)[one.class_indices[rows]]
        quality = one.mask_quality[rows] if by_quality else np.ones(len(rows), np.float32)
        is_learnt = (foreground[rows] >= FOREGROUND).astype(np.float32)
        masks = [one.masks[row] for row in rows]
        targets.append(target_of(one.image_size_hw, one.boxes_xyxy[rows], masks, probs, is_learnt, quality))
    return targets


def measure(world: World, found: Sequence[Instances], soft_vectors: Sequence[NDArray[np.float32]]) -> dict[str, float]:
    """Measure the test split: COCO's AP, AP per frequency group, AP of one pooled ranking, and calibration."""
    test, labelled = world["test"].annotated, world["labelled"].annotated
    groups = dict(zip(labelled.category_ids.tolist(), labelled.frequency_groups().tolist(), strict=True))
    results: list[dict[str, Any]] = []
    for row, (one, vectors) in enumerate(zip(found, soft_vectors, strict=True)):
        results += results_of_image(test.images[row].image_id, one.masks, vectors, test.category_ids)
    figures = evaluate_results(test.to_json(), results, frequency_groups=groups)
    predictions = {
        row: ImagePredictions(one.class_indices, vectors[np.arange(len(one)), one.class_indices], one.masks)
        for row, (one, vectors) in enumerate(zip(found, soft_vectors, strict=True))
    }
    detections = match_set(test, predictions, with_context=False).scored()
    num_objects = sum(len(of_image) for of_image in test.annotations)
    bins = ReliabilityBins.from_detections(detections, 15)
    return {
        name: 100 * value for name in ("AP", "AP50", "APr", "APc", "APf") if (value := figures.get(name)) is not None
    } | {
        "AP^pool": 100 * pooled_average_precision(detections.raw_scores, detections.is_correct, num_objects),
        "NLL": nll(detections.raw_scores, detections.is_correct),
        "ECE": ece(bins),
        "CCECE": ccece(bins),
    }
