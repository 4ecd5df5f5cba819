"""Every setting of a run: frozen dataclasses, one docstring a field, and the strict YAML loader."""

import difflib
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from raylabel.errors import InputError
from raylabel.storage import RunFolder, exists, read_bytes

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]

SmoothingKind = Literal["none", "uniform", "similarity"]
CorrectorKind = Literal[
    "none",
    "ccece",
    "ccece_bins",
    "temperature",
    "isotonic",
    "isotonic_per_class",
    "norcal",
    "marginal",
    "hierarchical",
    "contextual",
    "auto",
]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SplitFraction:
    """A part of the labelled set that is kept out of training, chosen by a hash of the image id and the seed."""

    fraction: Annotated[float, Field(gt=0, lt=1)]
    """Share of the labelled images."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class DataConfig:
    """Where the images and their annotations are. Relative paths are relative to the config file."""

    labelled: str
    """LVIS or COCO JSON with the labelled images."""
    images: str
    """Folder or URI prefix of the images that the JSON files name."""
    calibration: str | SplitFraction
    """JSON of the calibration split, or `{fraction: 0.1}` of `labelled`."""
    validation: str | SplitFraction
    """JSON of the validation split, or `{fraction: 0.1}` of `labelled`."""
    pool: str | SplitFraction
    """Unlabelled images: a folder, URI prefix, Parquet, tar or manifest, or a pattern such as `shard-{000..127}.tar`;
    or `{fraction: 0.3}` of `labelled`, whose annotations are then kept aside for measuring. What comes to it after it
    was labelled, the next `label` labels."""
    pool_truth: str | None = None
    """JSON with the pool's true annotations, for measuring only; no stage but `evaluate` reads it."""
    max_image_pixels: PositiveInt = 50_000_000
    """Images with more pixels are quarantined, before they are decoded."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SmoothingConfig:
    """Label smoothing of the teacher's class targets (docs/design.md, "Similarity label smoothing")."""

    kind: SmoothingKind = "similarity"
    """Where the smoothed mass goes: nowhere, evenly to the other classes, or by class similarity."""
    eps_min: Probability = 0.02
    """Mass taken from the true class for the most frequent class."""
    eps_max: Probability = 0.2
    """Mass taken from the true class for the rarest class."""
    tau: Positive = 0.1
    """Temperature of the softmax over similarities."""
    warmup_steps: NonNegativeInt = 150
    """Steps of the warm-up that trains the embedder, where neither weights nor `embedder` are given; the teacher
    goes on from it, and they count into `teacher.steps`."""
    embedder: str | None = None
    """Folder of a saved model whose features serve for the prototypes."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TrainingConfig:
    """What the training of teacher and student share."""

    model: str = "tiny_maskrcnn"
    """A name of raylabel.models.BUILDERS, or a user's own `module:Class`."""
    weights: str | None = None
    """Local file with pretrained weights (.safetensors, or a torch .pth state dict)."""
    learning_rate: Positive = 0.002
    """Peak learning rate of AdamW; linear warm-up, then cosine decay to a hundredth."""
    weight_decay: NonNegative = 0.01
    """Decoupled weight decay."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay of the moving average of the weights, which is what is saved; ramped up over the first steps."""
    repeat_threshold: NonNegative = 0.1
    """LVIS's repeat-factor sampling: classes in a smaller share of images are repeated; 0 turns it off."""
    num_workers: PositiveInt = 2
    """DDP workers; each takes an equal part of the batch."""
    cpus_per_worker: Positive = 0.5
    """CPUs that Ray reserves for a worker."""
    gpus_per_worker: NonNegative = 0.0
    """GPUs a worker; above 0 it trains on CUDA with automatic mixed precision."""
    checkpoint_every: PositiveInt = 100
    """Steps between checkpoints, from which an interrupted training goes on."""
    min_size: PositiveInt | None = None
    """Images are resized so that the short side has this length before the model; null keeps their size."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TeacherConfig(TrainingConfig):
    """The model that labels the pool."""

    steps: PositiveInt = 500
    """Optimizer steps."""
    batch_size: PositiveInt = 8
    """Images a step over all workers."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class CalibrationConfig:
    """How the teacher's scores are corrected."""

    corrector: CorrectorKind = "auto"
    """Kind of the corrector; `auto` chooses by cross-validation and keeps `none` unless another is better."""
    num_bins: Annotated[int, Field(ge=2)] = 15
    """Confidence bins of equal width over (0, 1]."""
    folds: NonNegativeInt = 0
    """k >= 2: k teachers on k - 1 folds of `labelled` each predict their held-out fold, in place of a split."""
    iou_threshold: Probability = 0.5
    """Mask IoU from which a detection can be correct."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class LabelConfig:
    """Inference over the pool."""

    shard_size: PositiveInt = 256
    """Images a shard: the unit of work, of retry and of commit."""
    num_workers: PositiveInt | Literal["auto"] = "auto"
    """Labelling actors. `auto`: as many as there are GPUs for; without GPUs one for each `num_cpus` CPUs of the
    cluster, and they share all CPUs but one (on 2 CPUs: 2 actors that reserve half a CPU each)."""
    num_cpus: NonNegative = 1.0
    """CPUs an actor, and threads of its model; one whole CPU of the cluster is left free."""
    num_gpus: NonNegative = 0.0
    """GPUs an actor; above 0 it predicts on CUDA."""
    decoding: Literal["auto", "threads", "tasks"] = "auto"
    """Who reads and decodes images: threads of the actor, or Ray tasks on any CPU of the cluster, so that an
    accelerator is not bound to the CPUs beside it. `auto`: tasks where `num_gpus` is above 0."""
    batch_size: PositiveInt = 16
    """Images a forward pass, all of one size; fewer where they are large."""
    max_bad_fraction: Probability = 0.05
    """The stage ends as soon as more than this share of the pool's images is quarantined."""
    score_threshold: Probability = 0.05
    """Predictions below this raw score are not stored."""
    max_per_image: PositiveInt = 100
    """At most so many predictions an image are stored."""
    top_k: PositiveInt = 20
    """Entries of the soft vector that are stored."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SelectionConfig:
    """Which predictions become pseudo-labels."""

    min_score: Probability = 0.5
    """Smallest calibrated score."""
    min_score_by_group: dict[Literal["r", "c", "f"], Probability] = Field(default_factory=dict)
    """Smallest calibrated score of a frequency group, in place of `min_score`."""
    min_mask_quality: Probability = 0.0
    """Smallest mean mask probability inside the mask."""
    min_area: NonNegativeInt = 1
    """Smallest mask in pixels."""
    max_per_image: PositiveInt = 300
    """The best so many by calibrated score."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class PoolLosses:
    """Weight of each loss term on pseudo-labelled images."""

    classes: NonNegative = 1.0
    """Soft cross-entropy of the box head."""
    objectness: NonNegative = 1.0
    """Objectness of the region proposals."""
    boxes: NonNegative = 0.0
    """Box regression, of proposals and box head."""
    masks: NonNegative = 0.0
    """Mask head."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class StudentConfig(TrainingConfig):
    """The model that is distilled from labelled images and pseudo-labels."""

    steps: PositiveInt = 300
    """Optimizer steps."""
    init: Literal["teacher", "weights"] = "teacher"
    """Start from the teacher (which must be of the same model), or from `weights` (at random where null)."""
    labelled_per_batch: PositiveInt = 4
    """Labelled images a step over all workers."""
    unlabelled_per_batch: NonNegativeInt = 12
    """Pool images a step over all workers."""
    unlabelled_weight: NonNegative = 1.0
    """Weight of the loss on pool images."""
    pool_losses: PoolLosses = Field(default_factory=PoolLosses)
    """Weight of each loss term on pool images."""
    weight_by_score: bool = False
    """Weigh each pseudo-label's class loss by its calibrated score."""
    doubtful_score: Probability = 0.1
    """Predictions that selection drops, but whose foreground probability reaches this, are neither learnt nor taken for
    background; 1 takes all that is dropped for background."""
    supervised_baseline: bool = True
    """Also train on labelled images only, with the same steps and images a step, for the report."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
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
        if self.smoothing.eps_min > self.smoothing.eps_max:
            low, high = self.smoothing.eps_min, self.smoothing.eps_max
            raise InputError(f"smoothing.eps_min must be <= smoothing.eps_max {high:g}, got {low:g}")
        if self.smoothing.warmup_steps > self.teacher.steps:
            warmup, steps = self.smoothing.warmup_steps, self.teacher.steps
            raise InputError(f"smoothing.warmup_steps must be <= teacher.steps {steps}, got {warmup}")
        if self.student.init == "teacher" and self.student.model != self.teacher.model:
            raise InputError(
                f"student.init: teacher needs student.model {self.teacher.model} as teacher.model, got "
                f"{self.student.model}; or set student.init: weights"
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


def load_config(path: str | Path, overrides: dict[str, str] | None = None) -> Config:
    """Read and check a YAML config.

    Args:
        path: local YAML file; relative paths under `data`, `weights` and `embedder` are relative to its folder, `out`
            is relative to the working directory.
        overrides: dotted key -> YAML text, such as {"teacher.steps": "100"}.

    Raises:
        InputError: the file is missing or not YAML, a key is unknown (the nearest valid name is given), or a value
            is of the wrong type or out of its range.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such config file")
    return resolve_paths(_config_from_yaml(path.read_bytes(), str(path), overrides), base=path.parent.absolute())


def load_run_config(run: RunFolder, overrides: dict[str, str] | None = None) -> Config:
    """The resolved config that a run keeps in its folder.

    Raises:
        InputError: the folder is not a run, or as of `load_config`.
    """
    uri = run.path("config.yaml")
    if not exists(uri):
        raise InputError(f"{run.uri}: not a run folder: it has no config.yaml")
    return _config_from_yaml(read_bytes(uri), uri, overrides)


def _config_from_yaml(content: bytes, source: str, overrides: dict[str, str] | None) -> Config:
    try:
        settings = yaml.safe_load(content.decode("utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise InputError(f"{source}: must be a mapping of settings, got {type(settings).__name__}")
    for dotted, text in (overrides or {}).items():
        _set(settings, dotted, text)
    return parse_config(settings, source=source)


def parse_config(settings: dict[str, Any], *, source: str = "config") -> Config:
    """Turn a mapping into a checked Config; `source` stands at the head of every message.

    Raises:
        InputError: as of `load_config`.
    """
    _refuse_unknown(Config, settings, prefix="", source=source)
    try:
        return TypeAdapter(Config).validate_python(settings)
    except ValidationError as error:
        first = max(error.errors(), key=lambda one: len(one["loc"]))
        if isinstance(first.get("ctx", {}).get("error"), InputError):
            raise InputError(f"{source}: {first['ctx']['error']}") from None
        location = ".".join(str(part) for part in first["loc"] if str(part) in _key_names(Config) or "." in str(part))
        message = first["msg"][0].lower() + first["msg"][1:]
        if first["type"] == "missing":
            raise InputError(f"{source}: {location or first['loc'][-1]} is required") from None
        raise InputError(f"{source}: {location}: {message}, got {first['input']!r}") from None


def dump_config(config: Config) -> str:
    """YAML of every setting; `load_config` reads it back to an equal Config."""
    return yaml.safe_dump(config_dict(config), sort_keys=False, allow_unicode=True)


def config_dict(config: Any) -> dict[str, Any]:
    """Plain dictionary of a config or one of its parts."""
    return TypeAdapter(type(config)).dump_python(config, mode="json")


def resolve_paths(config: Config, base: Path) -> Config:
    """Make relative paths absolute, from `base`; URIs stay."""

    def absolute(text: Any) -> Any:
        if not isinstance(text, str) or "://" in text:
            return text
        return str((base / Path(text).expanduser()).resolve()) if not Path(text).is_absolute() else text

    settings = config_dict(config)
    for name, value in settings["data"].items():
        settings["data"][name] = absolute(value)
    for section, name in (("teacher", "weights"), ("student", "weights"), ("smoothing", "embedder")):
        settings[section][name] = absolute(settings[section][name])
    return parse_config(settings)


def _set(settings: dict[str, Any], dotted: str, text: str) -> None:
    *parents, last = dotted.split(".")
    place = settings
    for name in parents:
        place = place.setdefault(name, {})
        if not isinstance(place, dict):
            raise InputError(f"--{dotted}: {name} is not a section")
    try:
        place[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"--{dotted}: not a YAML value: {text!r}") from error


def _sections(annotation: Any) -> list[type]:
    """Config classes that a field's annotation admits."""
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return [found for part in get_args(annotation) for found in _sections(part)]
    return [annotation] if is_dataclass(annotation) and isinstance(annotation, type) else []


def _refuse_unknown(section: type, settings: dict[str, Any], *, prefix: str, source: str) -> None:
    hints = get_type_hints(section)
    names = [field.name for field in fields(section)]
    for key, value in settings.items():
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.5)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"valid names: {', '.join(names)}"
            raise InputError(f"{source}: unknown key {prefix}{key}; {hint}")
        inner = _sections(hints[key])
        if inner and isinstance(value, dict):
            _refuse_unknown(inner[0], value, prefix=f"{prefix}{key}.", source=source)
        elif inner and value is None and str not in get_args(hints[key]):
            settings[key] = {}


def _key_names(section: type) -> set[str]:
    names = {field.name for field in fields(section)}
    for annotation in get_type_hints(section).values():
        for inner in _sections(annotation):
            names |= _key_names(inner)
    return names
