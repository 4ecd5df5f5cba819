"""Recipes: uses of N labelled images, each a few settings of `raylabel run`, run by the product's own stages.

The stages run in this process, without Ray, by the stand-ins that the tests use. A stage that another recipe of the
same world has run with the same fingerprint is copied.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml

from distillation_world import World
from raylabel.config import config_dict, config_from_yaml
from raylabel.files.digests import digest
from raylabel.run.data import RunData
from raylabel.run.folder import STAGES, RunFolder
from raylabel.stages.modules import stage_module
from raylabel.stages.run import run_one
from without_ray import put_stages_here

SETTINGS = {
    "calibration.corrector": "contextual",
    "label.score_threshold": "0.02",
    "label.max_per_image": "50",
    "student.supervised_baseline": "false",
}
"""Options of every recipe. Supervised training is a recipe of its own, so no recipe trains a baseline."""

MACHINE = {
    "teacher.num_workers": "1",
    "student.num_workers": "1",
    "teacher.optimizer.precision": "bf16",
    "student.optimizer.precision": "bf16",
}
"""Options about where a recipe runs. They change no fingerprint."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A use of N labelled images.

    Attributes:
        num_calibration: images of the N that are kept for calibration. 0 keeps none, and "half" keeps N / 2.
        teacher_length: steps of the teacher, in those of the world's size.
        student_length: steps of the student, in those of the world's size.
        burns_in: whether the student relabels the pool itself after half of the size's steps.
        options: options of `raylabel run` beside `SETTINGS`.
        is_uncalibrated: nothing is calibrated, so the teacher learns from all N. `data.calibration` must be something,
            and is the training set; no corrector is fitted to it.
    """

    num_calibration: int | Literal["half"] = 0
    teacher_length: float = 1.0
    student_length: float = 1.0
    burns_in: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    is_uncalibrated: bool = False


UNCALIBRATED = {
    "calibration.corrector": "none",
    "student.learn_from_calibration": "false",
    "student.correct_targets": "false",
}
SUPERVISED = UNCALIBRATED | {"student.unlabelled_per_batch": "0", "student.labelled_per_batch": "16"}
LONG = 2.5
ALL_LOSSES = {"student.pool_losses": "{classes: 1, objectness: 1, boxes: 1, masks: 1}"}
_VIEW = "{flip: 0.5, colour: 0.4, blur: 0.3, cutout: 0.5}"
AUGMENTED = {"teacher.augmentation": _VIEW, "student.augmentation": _VIEW}
"""The student's strong view of the pool, for labelled images as well."""

BEST = "30 calibrate"
"""The recipe that the defaults follow."""

RECIPES = {
    "supervised": Recipe(options=SUPERVISED, is_uncalibrated=True),
    "supervised, longer": Recipe(options=SUPERVISED, is_uncalibrated=True, teacher_length=2),
    "supervised, augmented": Recipe(options=SUPERVISED | AUGMENTED, is_uncalibrated=True),
    "supervised, augmented, longer": Recipe(options=SUPERVISED | AUGMENTED, is_uncalibrated=True, teacher_length=2),
    "half calibrate, not learnt": Recipe(num_calibration="half", options={"student.learn_from_calibration": "false"}),
    "30 calibrate, not learnt": Recipe(num_calibration=30, options={"student.learn_from_calibration": "false"}),
    "20 calibrate": Recipe(num_calibration=20),
    "30 calibrate": Recipe(num_calibration=30),
    "60 calibrate": Recipe(num_calibration=60),
    "30 calibrate, 2 rounds": Recipe(num_calibration=30, options={"student.rounds": "2"}),
    "30 calibrate, long": Recipe(num_calibration=30, student_length=LONG),
    "30 calibrate, burn-in": Recipe(num_calibration=30, student_length=LONG, burns_in=True),
    "30 calibrate, all losses": Recipe(num_calibration=30, options=ALL_LOSSES),
    "30 calibrate, augmented": Recipe(num_calibration=30, options=AUGMENTED),
    "30 calibrate, augmented, 2 rounds": Recipe(num_calibration=30, options=AUGMENTED | {"student.rounds": "2"}),
    "30 calibrate, augmented, burn-in": Recipe(
        num_calibration=30, options=AUGMENTED, student_length=LONG, burns_in=True
    ),
    "uncalibrated, augmented": Recipe(options=UNCALIBRATED | AUGMENTED, is_uncalibrated=True),
    "uncalibrated, augmented, burn-in": Recipe(
        options=UNCALIBRATED | AUGMENTED, is_uncalibrated=True, student_length=LONG, burns_in=True
    ),
    "2 folds": Recipe(options={"calibration.folds": "2"}),
    "4 folds": Recipe(options={"calibration.folds": "4"}),
    "2 folds, augmented": Recipe(options=AUGMENTED | {"calibration.folds": "2"}),
    "2 folds, augmented, burn-in": Recipe(
        options=AUGMENTED | {"calibration.folds": "2"}, student_length=LONG, burns_in=True
    ),
    "4 folds, augmented": Recipe(options=AUGMENTED | {"calibration.folds": "4"}),
}
"""Every recipe of a world has the same N images."""


def config_text(world: World, recipe: Recipe) -> str:
    """Return the config file of a recipe: its data alone. Every other setting is an option of the command."""
    num_calibration = world.num_labelled // 2 if recipe.num_calibration == "half" else recipe.num_calibration
    data = config_dict(world.data(num_calibration))
    if recipe.is_uncalibrated:
        data["calibration"] = data["labelled"]
    return yaml.safe_dump({"data": {name: value for name, value in data.items() if value is not None}})


def recipe_options(world: World, recipe: Recipe) -> dict[str, str]:
    """Return the options of `raylabel run`, by name."""
    size = world.size
    steps = {
        "smoothing.warmup_steps": str(size.warmup_steps),
        "teacher.steps": str(round(recipe.teacher_length * size.teacher_steps)),
        "student.steps": str(round(recipe.student_length * size.student_steps)),
    }
    if recipe.burns_in:
        steps["student.burn_in_steps"] = str(size.student_steps // 2)
    return {"seed": str(world.seed)} | SETTINGS | MACHINE | steps | dict(recipe.options)


def run_recipe(world: World, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Run the missing stages of a recipe up to the evaluation, and return its metrics."""
    torch.set_num_threads(1)
    world.ensure()
    config = config_from_yaml(config_text(world, recipe).encode(), "recipe", recipe_options(world, recipe))
    run = RunFolder(str(folder))
    with pytest.MonkeyPatch.context() as patch:
        put_stages_here(patch)
        for spec in STAGES:
            if spec.name == "report":
                break
            if run.artifact(spec.folder) is None:
                inputs = stage_module(spec.name).inputs(config, run, RunData(config))
                known = world.folder / "stages" / f"{spec.name}-{digest(inputs)[:16]}"
                if known.exists():
                    shutil.copytree(known, run.path(spec.folder), copy_function=os.link)
            artifact = run_one(spec.name, config, run)
            _keep(Path(run.path(spec.folder)), world.folder / "stages" / f"{spec.name}-{artifact['fingerprint'][:16]}")
    metrics: dict[str, Any] = artifact["metrics"]
    return metrics


def _keep(folder: Path, known: Path) -> None:
    """Keep a finished stage for other recipes. Files are linked, because stages replace files and never change them."""
    if not known.exists():
        temporary = known.with_suffix(".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(folder, temporary, copy_function=os.link)
        temporary.rename(known)
