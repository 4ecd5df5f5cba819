"""What each model of a run has learnt from: images of each kind, and optimizer steps."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from raylabel.config import Config
from raylabel.run.folder import RunFolder
from raylabel.run.models import BASELINE, has_model
from raylabel.run.rounds import round_run
from raylabel.run.stage import finished

SUPERVISED = "supervised"
"""Name of the supervised baseline."""


def student_arm(number: int) -> str:
    """Return the name of a round's student."""
    return "student" if number == 1 else f"student-{number}"


@dataclass(frozen=True, kw_only=True)
class LearntFrom:
    """The images and the compute behind a model.

    Attributes:
        labelled: annotated images outside of the calibration split.
        calibration: images of the calibration split.
        pool: images without annotations.
        steps: optimizer steps, with those of the models that the model needed.
    """

    labelled: int
    calibration: int
    pool: int
    steps: int

    def text(self) -> str:
        """Return the counts in words, without those that are 0."""
        counts = [("labelled", self.labelled), ("calibration", self.calibration), ("pool", self.pool)]
        images = " + ".join(f"{num:,} {name}" for name, num in counts if num)
        return f"{images or 'no'} images, {self.steps:,} steps"


def learnt_from(config: Config, run: RunFolder) -> Iterator[tuple[str, LearntFrom]]:
    """Yield the name of each model of a distilled run, and what it has learnt from.

    A student's steps include the teacher's, the fold teachers' and those of earlier rounds. The baseline's include the
    teacher's, because it starts from the teacher. A model of given weights has the steps that the run added.
    """
    teacher = finished(run, "teacher")
    before: int = teacher["steps"]
    labelled: int = teacher["num_images"]
    yield "teacher", LearntFrom(labelled=labelled, calibration=0, pool=0, steps=before)
    of_student = finished(run, "distill")
    known = _annotated(of_student)
    if has_model(run, BASELINE):
        start = before if config.student.init == "teacher" else 0
        yield SUPERVISED, LearntFrom(**known, pool=0, steps=start + of_student["steps"])
    before += config.calibration.folds * teacher["steps"]
    for number in range(1, config.student.rounds + 1):
        of_student = finished(round_run(run, number), "distill")
        before += of_student["steps"]
        yield student_arm(number), LearntFrom(**known, pool=of_student["num_pool_images"], steps=before)


def _annotated(of_student: dict[str, Any]) -> dict[str, int]:
    # A run that an early version distilled has learnt from no calibration image.
    calibration = of_student.get("num_calibration_images", 0)
    return {"labelled": of_student["num_labelled_images"] - calibration, "calibration": calibration}
