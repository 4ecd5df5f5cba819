"""Settings with which a training can't work well: remarks of `check`, none of which stops a run."""

import numpy as np

from raylabel.config import IMAGENET, Config, TeacherConfig
from raylabel.dataset.annotations import AnnotatedSet

LARGEST_TINY_SIDE = 256
"""Median side in pixels of images that the default model still learns something from, without pretrained weights."""
MAX_PRETRAINED_RATE = 0.001
"""Learning rate of a pretrained backbone that is ten times what docs/training.md advises."""
MIN_EPOCHS, MAX_EPOCHS = 3, 100


def doubtful_settings(config: Config, labelled: AnnotatedSet) -> list[str]:
    """Return a line about each setting that hardly anyone wants, with its remedy.

    Args:
        config: the run's config.
        labelled: what the teacher learns from.
    """
    teacher = config.teacher
    found = [_too_small_a_model(teacher, labelled), _untrained_embedder(config)]
    if teacher.steps:
        found += [_epochs(teacher, len(labelled)), _rate_of_backbone(teacher)]
    return [text for text in found if text]


def _too_small_a_model(teacher: TeacherConfig, labelled: AnnotatedSet) -> str:
    """Remark on the default model, which starts from nothing, with images that are no small ones."""
    side = float(np.median(labelled.images.sizes_hw()))
    if teacher.model != TeacherConfig().model or teacher.weights or side <= LARGEST_TINY_SIDE:
        return ""
    return (
        f"teacher.model {teacher.model} starts from nothing, and the median side of the labelled images is {side:g} "
        "pixels. On photographs its AP stays near 0. `raylabel init` writes a config with pretrained weights."
    )


def _untrained_embedder(config: Config) -> str:
    """Remark on prototypes of a box head that nothing has trained yet."""
    smoothing = config.smoothing
    if smoothing.kind != "similarity" or smoothing.layer or smoothing.embedder or config.teacher.weights != IMAGENET:
        return ""
    return (
        f"teacher.weights {IMAGENET} leaves the box head untrained, and the prototypes are made of its features. "
        "Set smoothing.layer: backbone."
    )


def _epochs(teacher: TeacherConfig, num_images: int) -> str:
    """Remark on a teacher that sees each image too often or hardly ever."""
    epochs = teacher.steps * teacher.batch_size / num_images
    if MIN_EPOCHS <= epochs <= MAX_EPOCHS:
        return ""
    nearest = MIN_EPOCHS if epochs < MIN_EPOCHS else MAX_EPOCHS
    steps = max(1, round(nearest * num_images / teacher.batch_size))
    return (
        f"teacher.steps {teacher.steps} with batch_size {teacher.batch_size} shows each of {num_images} labelled "
        f"images {epochs:,.1f} times. {MIN_EPOCHS} to {MAX_EPOCHS} times are usual; {nearest} take {steps} steps."
    )


def _rate_of_backbone(teacher: TeacherConfig) -> str:
    """Remark on a learning rate that destroys pretrained features."""
    optimizer = teacher.optimizer
    rate = optimizer.learning_rate * optimizer.backbone_rate
    if teacher.weights is None or rate < MAX_PRETRAINED_RATE:
        return ""
    return (
        f"teacher.optimizer: the pretrained backbone of {teacher.weights} learns at a rate of {rate:g}, ten times what "
        "such features stand. Set learning_rate and backbone_rate as docs/training.md advises, such as 0.001 and 0.1."
    )
