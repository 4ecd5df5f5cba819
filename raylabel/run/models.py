"""The models of a run: their folders, and which of them are saved. `models.saved` and `training/` write the files."""

import json
from typing import Any

from raylabel.files.digests import digest
from raylabel.files.json_files import read_json_object
from raylabel.files.moving import remove
from raylabel.files.reading import exists, read_bytes
from raylabel.models.description import DESCRIPTION_FILE, read_description
from raylabel.run.folder import RunFolder, stage_folder

TEACHER = stage_folder("teacher")
STUDENT = stage_folder("distill")

EMBEDDER = f"{stage_folder('prototypes')}/embedder"
"""The model that made the prototypes, if it was trained or built for the run."""

BASELINE = f"{STUDENT}/supervised"
"""The supervised baseline: the same start, steps and images per step as the student, all of them labelled."""

MODEL_FILES = ("model.safetensors", DESCRIPTION_FILE)
"""Files of a saved model. `models.saved` writes them, and cannot import these names because it lies below."""

TRAINING_LOG = "metrics.jsonl"
"""File of a model's training log. `training.log` writes it."""

CHECKPOINTS = "checkpoints"
"""Folder beside a model while the model is trained."""


def fold_folder(fold: int) -> str:
    """Return the folder of the teacher that does not see a fold of the labelled set."""
    return f"{stage_folder('calibrate')}/fold-{fold}"


def pool_index_uri(run: RunFolder) -> str:
    """Return the path or URI of the student's index of the labelled pool (schema.POOL_INDEX)."""
    return run.path(STUDENT, "pool_index.parquet")


def load_training_log(run: RunFolder, folder: str) -> list[dict[str, float]]:
    """Read a model's training log. Empty if there is none."""
    uri = run.path(folder, TRAINING_LOG)
    return [json.loads(line) for line in read_bytes(uri).decode().splitlines()] if exists(uri) else []


def has_model(run: RunFolder, folder: str) -> bool:
    """Whether a model is saved in a folder of the run."""
    return exists(description_uri(run, folder))


def is_saved_as(run: RunFolder, folder: str, identity: Any) -> bool:
    """Whether the model saved in a folder of the run has this identity, a JSON-able value."""
    return has_model(run, folder) and read_json_object(description_uri(run, folder)).get("identity") == digest(identity)


def num_model_classes(run: RunFolder, folder: str) -> int:
    """Read how many classes a saved model has, without background.

    Raises:
        InputError: its description is missing or damaged.
    """
    return read_description(description_uri(run, folder))[0].num_classes


def description_uri(run: RunFolder, folder: str) -> str:
    """Return the path or URI of a model's description, model.json."""
    return run.path(folder, DESCRIPTION_FILE)


def remove_checkpoints(run: RunFolder, folder: str) -> None:
    """Remove the checkpoints of a model that is saved."""
    remove(run.path(folder, CHECKPOINTS))
