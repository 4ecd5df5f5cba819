"""Rounds: a student becomes the teacher of the next student. Each further round is a nested run in `round-N/`.

A round's run has the stages calibrate, label and distill, and a `teacher/` that is the previous round's student. It is
therefore resumed, superseded, inspected and exported like any run. The last student is calibrated in such a run as
well, but does not label.
"""

from dataclasses import replace

from raylabel.config import Config
from raylabel.files.committing import commit_bytes
from raylabel.files.moving import copy_file
from raylabel.files.reading import read_bytes
from raylabel.run.classes import classes_uri
from raylabel.run.folder import STAGES, RunFolder, stage_folder
from raylabel.run.models import MODEL_FILES, STUDENT, TEACHER
from raylabel.run.prototypes import prototypes_uri
from raylabel.run.stage import Artifact, execute_stage, finished

ROUND_STAGES = tuple(spec.name for spec in STAGES if spec.in_rounds)
"""Stages of a further round, run after its teacher is in place."""


def round_run(run: RunFolder, number: int) -> RunFolder:
    """Return the run of a round. The first round is the whole run."""
    return run if number == 1 else run.nested(f"round-{number}")


def further_rounds(config: Config, run: RunFolder) -> dict[int, RunFolder]:
    """Return number -> run of every round after the first that the config asks for."""
    return {number: round_run(run, number) for number in range(2, config.student.rounds + 1)}


def student_calibration(run: RunFolder) -> RunFolder:
    """Return the run whose teacher is the last student. It is calibrated only."""
    return run.nested("student-calibration")


def baseline_calibration(run: RunFolder) -> RunFolder:
    """Return the run whose teacher is the supervised baseline. It is calibrated only."""
    return run.nested("baseline-calibration")


def student_correctors(config: Config, run: RunFolder) -> dict[int, RunFolder]:
    """Return, by round number, the run whose corrector was fitted to that round's student.

    It is the next round's run, or `student_calibration` for the last round. A round is left out if its student made no
    detection on the calibration split.
    """
    after = {number - 1: of_round for number, of_round in further_rounds(config, run).items()}
    after[config.student.rounds] = student_calibration(run)
    return {number: one for number, one in after.items() if is_calibrated(one)}


def is_calibrated(run: RunFolder) -> bool:
    """Whether a run has a corrector."""
    return run.artifact(stage_folder("calibrate")) is not None


def is_fitted_to(calibrated: RunFolder, trained_in: RunFolder, *, is_teacher: bool = False) -> bool:
    """Whether a run's corrector was fitted to the model as it is now.

    Args:
        calibrated: the run with the corrector. A student's or baseline's is a nested run, whose teacher is the model.
        trained_in: the run that trained the model.
        is_teacher: whether the model is the teacher of both.
    """
    if not is_calibrated(calibrated):
        return False
    of_model, of_corrector, name = (
        ("teacher", "calibrate", "teacher") if is_teacher else ("distill", "teacher", "student")
    )
    fitted_to = finished(calibrated, of_corrector).get("inputs", {}).get(name)
    return fitted_to in (None, finished(trained_in, of_model)["fingerprint"])


def round_config(config: Config) -> Config:
    """Return the config of a further round. The round trains the student, and no supervised baseline."""
    return replace(config, student=replace(config.student, rounds=1, supervised_baseline=False))


def has_seen_calibration(run: RunFolder) -> bool:
    """Whether the teacher of a nested run has learnt from the images that calibrated the outer run."""
    return bool(finished(run, "teacher").get("has_seen_calibration"))


def adopt_student(previous: RunFolder, run: RunFolder, *, has_seen: bool, folder: str = STUDENT) -> None:
    """Make the student of a round the teacher of the next round. The teacher's artifact names the student.

    Args:
        previous: the run of the student's round.
        run: the nested run that gets the teacher.
        has_seen: whether the student has learnt from the images that calibrated the run.
        folder: folder of the model, if it is not the student.

    Raises:
        InputError: the student is not trained yet, or another driver is at work on the round.
    """
    distilled = finished(previous, "distill")

    def copy() -> Artifact:
        for uri_in in (classes_uri, prototypes_uri):
            commit_bytes(uri_in(run), read_bytes(uri_in(previous)))
        for name in MODEL_FILES:
            copy_file(previous.path(folder, name), run.path(TEACHER, name))
        return {"model": previous.path(folder), "has_seen_calibration": has_seen}

    inputs = {"student": distilled["fingerprint"], "labelled": distilled["inputs"]["labelled"]}
    if folder != STUDENT:
        inputs["model"] = folder
    execute_stage(run, "teacher", inputs, copy)
