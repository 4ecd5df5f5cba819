"""Rounds: a student becomes the teacher of the next one. Each further round is a run of its own in `round-N/`.

It has the stages calibrate, label and distill, like any run, and a `teacher/` that is the student of the round before:
so it resumes, is superseded, looked at and exported as a run is. The last student is calibrated in such a run, too, but
does not label.
"""

from dataclasses import replace

from raylabel.config import Config
from raylabel.files.storage import commit_bytes, read_bytes
from raylabel.run.classes import classes_uri
from raylabel.run.folder import STAGES, RunFolder, stage_folder
from raylabel.run.models import STUDENT, TEACHER
from raylabel.run.prototypes import prototypes_uri
from raylabel.run.stage import execute_stage, finished

ROUND_STAGES = tuple(spec.name for spec in STAGES if spec.in_rounds)
"""Stages of a further round, after it has its teacher."""

_MODEL_FILES = ("model.safetensors", "model.json")


def round_run(run: RunFolder, number: int) -> RunFolder:
    """The run of a round; the first is the whole run's own."""
    return run if number == 1 else run.nested(f"round-{number}")


def further_rounds(config: Config, run: RunFolder) -> dict[int, RunFolder]:
    """Number -> run of every round after the first that the config asks for."""
    return {number: round_run(run, number) for number in range(2, config.student.rounds + 1)}


def student_calibration(run: RunFolder) -> RunFolder:
    """The run whose teacher is the last student, and which is calibrated only."""
    return run.nested("student-calibration")


def student_correctors(config: Config, run: RunFolder) -> dict[int, RunFolder]:
    """Number of a round -> the run with the corrector that was fitted to that round's student: the round after it, or
    `student_calibration`. Rounds without one are left out, as their student made no detection on the calibration split.

    With `calibration.folds` there are no images that the student has not seen: its teacher's corrector takes the place.
    """
    if config.calibration.folds:
        return {1: run}
    after = {number - 1: of_round for number, of_round in further_rounds(config, run).items()}
    after[config.student.rounds] = student_calibration(run)
    return {number: one for number, one in after.items() if one.artifact(stage_folder("calibrate")) is not None}


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
        for uri_in in (classes_uri, prototypes_uri):
            commit_bytes(uri_in(run), read_bytes(uri_in(previous)))
        for name in _MODEL_FILES:
            commit_bytes(run.path(TEACHER, name), read_bytes(previous.path(STUDENT, name)))
        return {"model": previous.path(STUDENT)}

    inputs = {"student": distilled["fingerprint"], "labelled": distilled["inputs"]["labelled"]}
    execute_stage(run, "teacher", inputs, copy)
