"""The run folder: its stages, their folders, and the config that a run keeps."""

from dataclasses import dataclass
from typing import Any

from raylabel.config.load import config_from_yaml
from raylabel.config.run import Config
from raylabel.errors import InputError
from raylabel.files.storage import commit_json, exists, join, read_bytes, read_json


@dataclass(frozen=True)
class RunFolder:
    """A run: one folder a stage, each with an `artifact.json` that is written last.

    Attributes:
        uri: local path or URI.
    """

    uri: str

    def path(self, *parts: str) -> str:
        """Path or URI of a file in the run."""
        return join(self.uri, *parts)

    def artifact(self, stage: str) -> dict[str, Any] | None:
        """What a finished stage said of itself, or None where it is not finished."""
        path = self.path(stage, "artifact.json")
        return read_json(path) if exists(path) else None

    def commit_artifact(self, stage: str, content: dict[str, Any]) -> None:
        """Declare a stage finished."""
        commit_json(self.path(stage, "artifact.json"), content)


STAGES = ("prototypes", "teacher", "calibrate", "label", "distill", "evaluate", "report")
"""In their order."""


FOLDERS = {
    "prototypes": "prototypes",
    "teacher": "teacher",
    "calibrate": "calibration",
    "label": "labels",
    "distill": "student",
    "evaluate": "evaluation",
    "report": "report",
}
"""Stage -> its folder in the run."""


def stage_folder(stage: str) -> str:
    """Folder of a stage in the run."""
    return FOLDERS[stage]


def load_run_config(run: RunFolder, overrides: dict[str, str] | None = None) -> Config:
    """The resolved config that a run keeps in its folder.

    Raises:
        InputError: the folder is not a run, or as of `load_config`.
    """
    uri = run.path("config.yaml")
    if not exists(uri):
        raise InputError(f"{run.uri}: not a run folder: it has no config.yaml")
    return config_from_yaml(read_bytes(uri), uri, overrides)
