"""The run folder: its stages, the folder and artifact of each stage, and the stored config."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from raylabel.config.load import config_from_yaml, dump_config
from raylabel.config.run import Config
from raylabel.errors import InputError
from raylabel.files.committing import commit_bytes
from raylabel.files.file_systems import absolute
from raylabel.files.json_files import commit_json, read_json_object
from raylabel.files.paths import join, split
from raylabel.files.reading import exists, read_bytes


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """One stage of a run. `raylabel.stages.<name>` does its work.

    Attributes:
        name: the stage and its command.
        folder: its folder in the run.
        needs: stages that must be finished first. If one of them runs again, this stage runs again.
        about: the command line's help.
        later_needs: stages that the later settings of this stage read. If one of them changes, this stage applies its
            later settings and does not run again.
        later_about: what applying the later settings would do, as `raylabel check` says it.
        in_rounds: whether a further round repeats the stage.
        is_live: whether `raylabel status` shows a live view of its scores.
        trains: section of the config whose workers train a model in this stage. Empty if it trains none.
        predicts: whether the stage runs the workers of the section `label`.
    """

    name: str
    folder: str
    needs: tuple[str, ...]
    about: str
    later_needs: tuple[str, ...] = ()
    later_about: str = "its later settings would be applied"
    in_rounds: bool = False
    is_live: bool = False
    trains: Literal["", "teacher", "student"] = ""
    predicts: bool = False


STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        name="prototypes",
        folder="prototypes",
        needs=(),
        about="embed labelled instances and average them per class",
        trains="teacher",
        predicts=True,
    ),
    StageSpec(
        name="teacher",
        folder="teacher",
        needs=("prototypes",),
        about="train the teacher with similarity-smoothed targets",
        trains="teacher",
    ),
    StageSpec(
        name="calibrate",
        folder="calibration",
        needs=("teacher",),
        about="match held-out predictions and fit the corrector, for a run or for any detector's results file",
        later_about="the corrector would be fitted again",
        in_rounds=True,
        is_live=True,
        predicts=True,
    ),
    StageSpec(
        name="label",
        folder="labels",
        needs=("teacher",),
        about="run the teacher over the pool, shard by shard",
        later_needs=("calibrate",),
        later_about="the labels would be corrected and selected again",
        in_rounds=True,
        is_live=True,
        predicts=True,
    ),
    StageSpec(
        name="distill",
        folder="student",
        needs=("calibrate", "label"),
        about="train the student on labelled images and soft corrected pseudo-labels",
        in_rounds=True,
        trains="student",
    ),
    StageSpec(
        name="evaluate",
        folder="evaluation",
        needs=("distill",),
        about="measure the AP of every model and the calibration of the pool's labels",
        predicts=True,
    ),
    StageSpec(
        name="report",
        folder="report",
        needs=("evaluate",),
        about="write the report page",
    ),
)
"""The stages of a run in their order."""


def stage_spec(name: str) -> StageSpec:
    """Return the stage of this name."""
    return next(spec for spec in STAGES if spec.name == name)


def stage_folder(name: str) -> str:
    """Return the folder of a stage in the run."""
    return stage_spec(name).folder


@dataclass(frozen=True)
class RunFolder:
    """A run: one folder per stage, each with an `artifact.json` that is written last.

    Attributes:
        uri: local path or URI.
        place: path of a nested run inside its outer run, such as "round-2/". Empty for a run that is not nested.
    """

    uri: str
    place: str = field(default="", compare=False)

    def path(self, *parts: str) -> str:
        """Return the path or URI of a file in the run."""
        return join(self.uri, *parts)

    def nested(self, name: str) -> "RunFolder":
        """Return the run that lies in a folder of this one."""
        return RunFolder(self.path(name), f"{self.place}{name}/")

    @property
    def outer(self) -> "RunFolder":
        """Return the run that this nested run lies in."""
        place, _, _ = self.place.rstrip("/").rpartition("/")
        return RunFolder(split(self.uri)[0], f"{place}/" if place else "")

    @property
    def outermost(self) -> "RunFolder":
        """Return the run that is not nested, with which this run shares its data."""
        return self.outer.outermost if self.place else self

    def title(self, stage: str) -> str:
        """Return the name of a stage as users read it, such as "round-2/label"."""
        return f"{self.place}{stage}"

    def artifact(self, folder: str) -> dict[str, Any] | None:
        """Read what a finished stage recorded in its folder. None if the stage is not finished."""
        path = self.path(folder, "artifact.json")
        return read_json_object(path) if exists(path) else None

    def commit_artifact(self, folder: str, content: dict[str, Any]) -> None:
        """Declare a stage finished."""
        commit_json(self.path(folder, "artifact.json"), content)


def run_folder(run: RunFolder | Path | str) -> RunFolder:
    """Return the run at a path or URI. A local path is made absolute, so that workers find the run as well."""
    if isinstance(run, RunFolder):
        return run
    text = str(getattr(run, "uri", run))  # of a reader.Run
    return RunFolder(absolute(text))


def report_uri(run: RunFolder) -> str:
    """Return the path or URI of the report page."""
    return run.path(stage_folder("report"), "index.html")


def is_run(run: RunFolder) -> bool:
    """Whether the folder holds a run."""
    return exists(_config_uri(run))


def is_started(run: RunFolder, stage: str) -> bool:
    """Whether a stage has begun."""
    return exists(run.path(stage_folder(stage), "started.json"))


def commit_config(run: RunFolder, config: Config) -> None:
    """Write the resolved config into the run."""
    commit_bytes(_config_uri(run), dump_config(config).encode())


def config_text(run: RunFolder) -> str:
    """Read the YAML text of the config that the run stores."""
    return read_bytes(_config_uri(run)).decode()


def load_run_config(run: RunFolder, overrides: dict[str, str] | None = None) -> Config:
    """Load the resolved config that the run stores.

    Raises:
        InputError: the folder is not a run, or the config is refused as in `load_config`.
    """
    if not is_run(run):
        raise InputError(f"{run.uri}: not a run folder, because it has no config.yaml")
    uri = _config_uri(run)
    return config_from_yaml(read_bytes(uri), uri, overrides)


def _config_uri(run: RunFolder) -> str:
    return run.path("config.yaml")
