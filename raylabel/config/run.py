"""Settings of a whole run."""

from pydantic import Field
from pydantic.dataclasses import dataclass

from raylabel.config.constraints import STRICT, NonNegativeInt
from raylabel.config.data import DataConfig, SplitFraction
from raylabel.config.labelling import CalibrationConfig, LabelConfig, SelectionConfig
from raylabel.config.training import SmoothingConfig, StudentConfig, TeacherConfig
from raylabel.errors import InputError


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """A whole run."""

    data: DataConfig
    smoothing: SmoothingConfig = Field(default_factory=SmoothingConfig)
    teacher: TeacherConfig = Field(default_factory=TeacherConfig)
    calibration: CalibrationConfig = Field(default_factory=CalibrationConfig)
    label: LabelConfig = Field(default_factory=LabelConfig)
    selection: SelectionConfig = Field(default_factory=SelectionConfig)
    student: StudentConfig = Field(default_factory=StudentConfig)
    seed: NonNegativeInt = 0
    """Seed of every random choice."""
    out: str = "runs/default"
    """The run folder or URI, where `--out` is not given."""

    def __post_init__(self) -> None:
        if self.calibration.folds == 1:
            raise InputError("calibration.folds must be 0 or >= 2, got 1")
        if self.data.calibration is None and not self.calibration.folds:
            raise InputError("data.calibration is required, unless calibration.folds is set")
        if self.smoothing.eps_min > self.smoothing.eps_max:
            low, high = self.smoothing.eps_min, self.smoothing.eps_max
            raise InputError(f"smoothing.eps_min must be <= smoothing.eps_max {high:g}, got {low:g}")
        if self.teacher.steps == 0 and self.teacher.weights is None:
            raise InputError("teacher.steps: 0 needs teacher.weights, as nothing else makes the teacher")
        if self.teacher.steps == 0 and self.calibration.folds:
            raise InputError(
                f"calibration.folds must be 0 where teacher.steps is 0, as no fold's teacher is trained, got "
                f"{self.calibration.folds}"
            )
        is_warmed_up = self.smoothing.embedder is None and self.teacher.weights is None
        if is_warmed_up and self.smoothing.warmup_steps > self.teacher.steps:
            warmup, steps = self.smoothing.warmup_steps, self.teacher.steps
            raise InputError(f"smoothing.warmup_steps must be <= teacher.steps {steps}, got {warmup}")
        if self.student.init == "teacher" and self.student.model != self.teacher.model:
            raise InputError(
                f"student.init: teacher needs student.model {self.teacher.model} as teacher.model, got "
                f"{self.student.model}; or set student.init: weights"
            )
        if self.student.rounds > 1 and self.calibration.folds:
            raise InputError(
                f"student.rounds {self.student.rounds} needs calibration.folds: 0, got {self.calibration.folds}: "
                "students learn from every fold, so a later round needs a calibration split"
            )
        for name, training in (("teacher", self.teacher), ("student", self.student)):
            if training.min_workers is not None and training.min_workers > training.num_workers:
                most, least = training.num_workers, training.min_workers
                raise InputError(f"{name}.min_workers must be <= {name}.num_workers {most}, got {least}")
        if self.student.init == "teacher" and self.student.model_options != self.teacher.model_options:
            raise InputError(
                "student.init: teacher needs student.model_options to be those of the teacher, got "
                f"{self.student.model_options}; or set student.init: weights"
            )
        fractions = [
            part.fraction
            for part in (self.data.calibration, self.data.validation, self.data.pool)
            if isinstance(part, SplitFraction)
        ]
        if sum(fractions) >= 1:
            raise InputError(
                f"data: the fractions of calibration, validation and pool must sum to < 1, got {fractions}"
            )
