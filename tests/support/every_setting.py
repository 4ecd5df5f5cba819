"""Another value for every setting of a config."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from raylabel.config import Config

CCECE = {"calibration.corrector": "ccece"}
"""A corrector that is fitted at once."""

_VIEW = {
    "flip": 0.25,
    "colour": 0.625,
    "blur": 0.625,
    "cutout": 0.625,
    "min_scale": 0.75,
    "max_scale": 1.5,
    "output_size": 96,
}
_OPTIMIZER = {
    "learning_rate": 0.02,
    "weight_decay": 0.5,
    "backbone_rate": 0.1,
    "layer_decay": 0.5,
    "schedule": "multistep",
    "milestones": (0.25,),
    "final_share": 0.5,
    "warmup_steps": 3,
    "max_gradient_norm": 0.5,
    "ema_decay": 0.25,
    "accumulate": 4,
    "precision": "bf16",
    "channels_last": True,
    "compile": True,
}
_TRAINING = {
    "model": "fakes:SlowSegmenter",
    "model_options": {"depth": 2},
    "weights": "imagenet",
    **{f"optimizer.{name}": value for name, value in _OPTIMIZER.items()},
    **{f"augmentation.{name}": value for name, value in {**_VIEW, "copy_paste": 0.25}.items()},
    "repeat_threshold": 0.5,
    "federated_loss.enabled": True,
    "federated_loss.num_classes": 3,
    "federated_loss.power": 0.25,
    "num_workers": 5,
    "min_workers": 1,
    "cpus_per_worker": 3.0,
    "gpus_per_worker": 1.0,
    "memory_gb_per_worker": 2.0,
    "checkpoint_every": 3,
    "decoding": "tasks",
    "keep_checkpoints": 5,
    "evaluate_every": 8,
    "evaluate_images": 5,
    "min_size": 99,
    "steps": 77,
}

OTHER: dict[str, Any] = {
    "seed": 9,
    "out": "runs/other",
    "data.labelled": "val.json",
    "data.images": "pool",
    "data.calibration": "labelled.json",
    "data.validation": "labelled.json",
    "data.pool": "images",
    "data.pool_truth": None,
    "data.max_image_pixels": 12345,
    "data.tar_samples": "webdataset",
    "data.validation_in_pool": "keep",
    "data.allowed_schemes": ("s3",),
    "data.allowed_roots": ("elsewhere",),
    "smoothing.kind": "uniform",
    "smoothing.eps_min": 0.125,
    "smoothing.eps_max": 0.75,
    "smoothing.tau": 0.5,
    "smoothing.warmup_steps": 3,
    "smoothing.embedder": "embedder",
    "smoothing.layer": "classes",
    **{f"teacher.{name}": value for name, value in _TRAINING.items()},
    "teacher.batch_size": 3,
    **{f"student.{name}": value for name, value in _TRAINING.items()},
    "student.init": "weights",
    "student.labelled_per_batch": 5,
    "student.unlabelled_per_batch": 3,
    "student.learn_from_calibration": False,
    "student.unlabelled_weight": 0.25,
    **{f"student.pool_losses.{term}": 0.25 for term in ("classes", "objectness", "boxes", "masks")},
    "student.targets": "hard",
    "student.correct_targets": False,
    "student.select_by": "score",
    "student.min_foreground": 0.25,
    "student.weight_masks_by": "quality",
    "student.weight_by_score": True,
    **{f"student.strong_view.{name}": value for name, value in _VIEW.items()},
    "student.doubtful_score": 0.25,
    "student.burn_in_steps": 4,
    "student.rounds": 2,
    "student.supervised_baseline": False,
    "calibration.corrector": "isotonic",
    "calibration.num_bins": 5,
    "calibration.folds": 4,
    "calibration.iou_threshold": 0.01,
    "label.shard_size": 5,
    "label.num_workers": 2,
    "label.num_cpus": 3.0,
    "label.num_gpus": 0.5,
    "label.memory_gb": 0.25,
    "label.decoding": "tasks",
    "label.batch_size": 3,
    "label.max_bad_fraction": 0.5,
    "label.score_threshold": 0.5,
    "label.max_per_image": 1,
    "label.top_k": 2,
    "label.mask_quality": "agreement",
    "label.tile": {"size": 40},
    "selection.min_score": 0.25,
    "selection.min_score_by_group": {"r": 0.25},
    "selection.min_mask_quality": 0.25,
    "selection.min_area": 170,
    "selection.max_per_image": 1,
    "evaluation.frequency": "labelled",
}
"""Setting -> a value that differs from its default and from the generated set's config."""


def override(setting: str) -> dict[str, str]:
    """Return the other value of a setting as an override of `load_config`."""
    value = OTHER[setting]
    return {setting: "null" if value is None else str(list(value) if isinstance(value, tuple) else value)}


def settings_of(config: Config) -> set[str]:
    """Return the names of all settings of a config."""
    return set(_names(config, ""))


def _names(section: Any, prefix: str) -> Iterator[str]:
    for field in fields(section):
        value = getattr(section, field.name)
        if is_dataclass(value):
            yield from _names(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name
