"""Settings of a whole run."""

from pydantic import Field
from pydantic.dataclasses import dataclass

from raylabel.config.constraints import STRICT, NonNegativeInt
from raylabel.config.data import DataConfig, LabelledPortion, SplitFraction
from raylabel.config.evaluation import EvaluationConfig
from raylabel.config.labelling import CalibrationConfig, LabelConfig, SelectionConfig
from raylabel.config.training import SmoothingConfig, StudentConfig, TeacherConfig
from raylabel.errors import InputError


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """Every setting of a run.

    Examples:
        >>> import raylabel as rl
        >>> from raylabel.config import DataConfig
        >>> data = DataConfig(
        ...     labelled="labelled.json", images="images", calibration="cal.json", validation="val.json", pool="pool"
        ... )
        >>> config = rl.Config(data=data, seed=3)
        >>> config.selection.min_score
        0.5
    """

    data: DataConfig
    """Where images and annotations are; the only section without defaults."""
    smoothing: SmoothingConfig = Field(default_factory=SmoothingConfig)
    """Label smoothing of the teacher's class targets."""
    teacher: TeacherConfig = Field(default_factory=TeacherConfig)
    """The model that labels the pool, and its training."""
    calibration: CalibrationConfig = Field(default_factory=CalibrationConfig)
    """How the teacher's scores are corrected."""
    label: LabelConfig = Field(default_factory=LabelConfig)
    """Inference over the pool."""
    selection: SelectionConfig = Field(default_factory=SelectionConfig)
    """Which predictions become pseudo-labels."""
    student: StudentConfig = Field(default_factory=StudentConfig)
    """The distilled model, and its training."""
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    """How models are measured."""
    seed: NonNegativeInt = 0
    """Seed of every random choice: splits, folds, initial weights, sampling and augmentation."""
    out: str = "runs/default"
    """Folder or URI of the run, unless `--out` is given. Relative paths are relative to the working directory."""

    @property
    def own_classes(self) -> tuple[str, ...]:
        """The user's classes, `module:Class`, that models of this run may have. No other class is imported."""
        return tuple(model for model in (self.teacher.model, self.student.model) if ":" in model)

    @property
    def student_learns_calibration(self) -> bool:
        """Whether there is a calibration split, and the student learns from its images as well."""
        return self.student.learn_from_calibration and not self.calibration.folds

    @property
    def student_has_seen_all(self) -> bool:
        """Whether the student learns from every image that calibrates the run."""
        return self.student.learn_from_calibration or self.calibration.folds > 0

    def __post_init__(self) -> None:
        if self.calibration.folds == 1:
            raise InputError("calibration.folds must be 0 or >= 2, got 1")
        if self.data.calibration is None and not self.calibration.folds:
            raise InputError("data.calibration is required, unless calibration.folds is set")
        if self.smoothing.eps_min > self.smoothing.eps_max:
            low, high = self.smoothing.eps_min, self.smoothing.eps_max
            raise InputError(f"smoothing.eps_min must be <= smoothing.eps_max {high:g}, got {low:g}")
        if self.teacher.steps == 0 and self.teacher.weights is None:
            raise InputError("teacher.steps: 0 needs teacher.weights, because nothing else makes the teacher")
        if self.teacher.steps == 0 and self.calibration.folds:
            raise InputError(
                f"calibration.folds must be 0 where teacher.steps is 0, because no teacher of a fold is trained, got "
                f"{self.calibration.folds}"
            )
        is_warmed_up = self.smoothing.embedder is None and self.teacher.weights is None
        if is_warmed_up and self.smoothing.warmup_steps > self.teacher.steps:
            warmup, steps = self.smoothing.warmup_steps, self.teacher.steps
            raise InputError(f"smoothing.warmup_steps must be <= teacher.steps {steps}, got {warmup}")
        if self.student.init == "teacher" and self.student.model != self.teacher.model:
            raise InputError(
                f"student.init: teacher needs student.model {self.teacher.model} like teacher.model, got "
                f"{self.student.model}. Set student.model, or student.init: weights."
            )
        for name, training in (("teacher", self.teacher), ("student", self.student)):
            if training.min_workers is not None and training.min_workers > training.num_workers:
                most, least = training.num_workers, training.min_workers
                raise InputError(f"{name}.min_workers must be <= {name}.num_workers {most}, got {least}")
        if self.student.init == "teacher" and self.student.model_options != self.teacher.model_options:
            raise InputError(
                "student.init: teacher needs student.model_options to equal teacher.model_options, got "
                f"{self.student.model_options}. Set student.model_options, or student.init: weights."
            )
        is_portion = isinstance(self.data.labelled, LabelledPortion)
        if self.data.pool is None and not is_portion:
            raise InputError("data.pool is required, unless data.labelled has a fraction: its other images are a pool")
        if self.data.pool is None and self.data.pool_truth is not None:
            raise InputError(
                f"data.pool_truth must be null where data.pool is, got {self.data.pool_truth}. Remove it: the truth of "
                "the other labelled images is known."
            )
        if is_portion and isinstance(self.data.pool, SplitFraction):
            raise InputError(
                "data.pool must be a place or null where data.labelled has a fraction, got {fraction: "
                f"{self.data.pool.fraction:g}}}. Remove data.pool: the other labelled images are the pool."
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
