"""Recipes: uses of N labelled images, each a few settings of `raylabel run`, run by the product's own stages.

The stages run in this process, without Ray, by the stand-ins that the tests use. A stage that another recipe of the
same world has run with the same fingerprint is copied.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from distillation_world import World
from without_ray import put_stages_here

from raylabel.config import config_dict, config_from_yaml
from raylabel.files.storage import digest
from raylabel.run.data import RunData
from raylabel.run.folder import STAGES, RunFolder
from raylabel.stages.modules import stage_module
from raylabel.stages.run import run_one

SETTINGS = {
    "smoothing.kind": "none",
    "smoothing.warmup_steps": "1000",
    "teacher.steps": "2500",
    "teacher.optimizer.learning_rate": "0.003",
    "teacher.optimizer.schedule": "constant",
    "teacher.optimizer.ema_decay": "0.998",
    "calibration.corrector": "contextual",
    "label.score_threshold": "0.02",
    "label.max_per_image": "50",
    "student.steps": "600",
    "student.optimizer.ema_decay": "0.998",
    "student.select_by": "foreground",
    "student.supervised_baseline": "false",
}
"""Settings of every recipe, as options of the command line."""

MACHINE = {
    "teacher.num_workers": "1",
    "student.num_workers": "1",
    "teacher.optimizer.precision": "bf16",
    "student.optimizer.precision": "bf16",
}
"""Settings of where a recipe runs. They change no fingerprint."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A use of N labelled images.

    Attributes:
        num_calibration: images of the N that are kept for calibration.
        settings: options of `raylabel run` beside `SETTINGS`.
        is_supervised: learn from labels alone: no calibration split, no pool.
        about: what it does, in one line.
    """

    about: str
    num_calibration: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)
    is_supervised: bool = False


LEARN_ALL = {"student.learn_from_calibration": "true"}
BASELINE = {"student.supervised_baseline": "true"}
SUPERVISED = {
    "student.unlabelled_per_batch": "0",
    "student.labelled_per_batch": "16",
    "calibration.corrector": "none",
    "student.learn_from_calibration": "false",
}
"""A student without a pool. Its `calibration` is the training set itself, and no corrector is fitted to it."""


def _thirty(about: str, **settings: str) -> Recipe:
    options = {name.replace("__", "."): value for name, value in settings.items()}
    return Recipe(about=about, num_calibration=30, settings=LEARN_ALL | options)


AUGMENTED = "{flip: 0.5, colour: 0.4, blur: 0.3, cutout: 0.5}"
AUG = {"teacher__augmentation": AUGMENTED, "student__augmentation": AUGMENTED}
UNCORRECTED = {
    "calibration.corrector": "none",
    "student.learn_from_calibration": "false",
    "student.correct_targets": "false",
}
RECIPES = {
    "aug": _thirty("", **AUG),
    "aug, uncorrected": Recipe(
        about="no calibration: the teacher learns from all, its soft vectors are the targets",
        settings={name.replace("__", "."): value for name, value in AUG.items()} | UNCORRECTED,
        is_supervised=True,
    ),
    "aug, 2 folds": Recipe(
        about="cross-fitted on 2 folds",
        settings={name.replace("__", "."): value for name, value in AUG.items()} | {"calibration.folds": "2"},
    ),
    "aug, 4 folds": Recipe(
        about="cross-fitted on 4 folds",
        settings={name.replace("__", "."): value for name, value in AUG.items()} | {"calibration.folds": "4"},
    ),
    "aug, burn-in": _thirty("", **AUG, student__steps="1500", student__burn_in_steps="300"),
    "aug, 2 rounds": _thirty("", **AUG, student__rounds="2"),
    "aug, all losses": _thirty("", **AUG, student__pool_losses="{classes: 1, objectness: 1, boxes: 1, masks: 1}"),
    "long": _thirty("1,500 student steps", student__steps="1500"),
    "long, burn-in": _thirty("relabels itself", student__steps="1500", student__burn_in_steps="300"),
    "long, all losses": _thirty(
        "boxes and masks too",
        student__steps="1500",
        student__pool_losses="{classes: 1, objectness: 1, boxes: 1, masks: 1}",
    ),
    "supervised, augmented": Recipe(
        about="strong augmentation of labelled images",
        settings=SUPERVISED | {"teacher.augmentation": AUGMENTED, "student.augmentation": AUGMENTED},
        is_supervised=True,
    ),
    "supervised": Recipe(about="all N from the start, 2,500 + 600 steps", settings=SUPERVISED, is_supervised=True),
    "supervised, longer": Recipe(
        about="all N from the start, 5,000 + 600 steps",
        settings=SUPERVISED | {"teacher.steps": "5000"},
        is_supervised=True,
    ),
    "half calibrate": Recipe(about="today's split: N / 2 calibrate, nothing learns from them", num_calibration=-2),
    "20 calibrate": Recipe(about="20 calibrate, the student learns from all", num_calibration=20, settings=LEARN_ALL),
    "30 calibrate": Recipe(about="30 calibrate, the student learns from all", num_calibration=30, settings=LEARN_ALL),
    "60 calibrate": Recipe(about="60 calibrate, the student learns from all", num_calibration=60, settings=LEARN_ALL),
    "30 calibrate, 2 rounds": Recipe(
        about="30 calibrate, the student learns from all and teaches another",
        num_calibration=30,
        settings=LEARN_ALL | {"student.rounds": "2"},
    ),
    "30 calibrate, not learnt": Recipe(about="30 calibrate, the student does not see them", num_calibration=30),
    "2 folds": Recipe(about="cross-fitted on 2 folds", settings={"calibration.folds": "2"}),
    "4 folds": Recipe(about="cross-fitted on 4 folds", settings={"calibration.folds": "4"}),
}


BEST = "30 calibrate"
"""The recipe that the defaults follow."""


def config_text(world: World, recipe: Recipe) -> str:
    """Return the config file of a recipe: its data alone. Every other setting is an option of the command."""
    num_calibration = recipe.num_calibration
    if num_calibration < 0:
        num_calibration = world.num_labelled // -num_calibration
    data = config_dict(world.data(num_calibration))
    if recipe.is_supervised:
        data["calibration"] = data["labelled"]
    return yaml.safe_dump({"data": {name: value for name, value in data.items() if value is not None}})


def recipe_options(world: World, recipe: Recipe) -> dict[str, str]:
    """Return the options of `raylabel run`, by name."""
    return {"seed": str(world.seed)} | SETTINGS | MACHINE | dict(recipe.settings)


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
