"""Rounds: a student becomes the teacher of the next one. Each further round is a run of its own in `round-N/`.

It has the stages calibrate, label and distill, like any run, and a `teacher/` that is the student of the round before:
so it resumes, is superseded, looked at and exported as a run is.
"""

from dataclasses import replace

from raylabel.config import Config
from raylabel.pipeline.stage import execute_stage, finished, stage_folder
from raylabel.storage import RunFolder, commit_bytes, read_bytes

ROUND_STAGES = ("calibrate", "label", "distill")
"""Of a further round, after it has its teacher."""

_MODEL_FILES = ("model.safetensors", "model.json")


def round_run(run: RunFolder, number: int) -> RunFolder:
    """The run of a round; the first is the whole run's own."""
    return run if number == 1 else RunFolder(run.path(f"round-{number}"))


def further_rounds(config: Config, run: RunFolder) -> dict[int, RunFolder]:
    """Number -> run of every round after the first that the config asks for."""
    return {number: round_run(run, number) for number in range(2, config.student.rounds + 1)}


def round_config(config: Config) -> Config:
    """The config of a further round: it trains the student alone."""
    return replace(config, student=replace(config.student, rounds=1, supervised_baseline=False))


def adopt_student(previous: RunFolder, run: RunFolder) -> None:
    """Make the student of a round the teacher of the next; its artifact names it.

    Raises:
        InputError: the student is not trained yet, or another driver is at work on the round.
    """
    distilled = finished(previous, "distill")

    def copy() -> dict[str, str]:
        for shared in ("classes.json", "prototypes/prototypes.parquet"):
            commit_bytes(run.path(shared), read_bytes(previous.path(shared)))
        for name in _MODEL_FILES:
            source = previous.path(stage_folder("distill"), name)
            commit_bytes(run.path(stage_folder("teacher"), name), read_bytes(source))
        return {"model": previous.path(stage_folder("distill"))}

    inputs = {"student": distilled["fingerprint"], "labelled": distilled["inputs"]["labelled"]}
    execute_stage(run, "teacher", inputs, copy)
