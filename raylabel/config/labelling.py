"""Settings of the pseudo-labels: correction of scores, inference over the pool, selection."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from raylabel.config.constraints import STRICT, NonNegative, NonNegativeInt, PositiveInt, Probability

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

MaskQuality = Literal["probability", "agreement"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
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


@dataclass(frozen=True, kw_only=True, config=STRICT)
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
    mask_quality: MaskQuality = "probability"
    """What the mask quality of a prediction is: the mean mask probability inside its mask; or `agreement`, its highest
    mask IoU with what the model finds in the mirrored image, which takes a second prediction of every image."""

    @property
    def mask_quality_inputs(self) -> dict[str, str]:
        """What of it goes into fingerprints: nothing by default, so that runs of before the setting stay finished."""
        return {} if self.mask_quality == "probability" else {"mask_quality": self.mask_quality}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SelectionConfig:
    """Which predictions become pseudo-labels."""

    min_score: Probability = 0.5
    """Smallest calibrated score."""
    min_score_by_group: dict[Literal["r", "c", "f"], Probability] = Field(default_factory=dict)
    """Smallest calibrated score of a frequency group, in place of `min_score`."""
    min_mask_quality: Probability = 0.0
    """Smallest mask quality (`label.mask_quality`)."""
    min_area: NonNegativeInt = 1
    """Smallest mask in pixels."""
    max_per_image: PositiveInt = 300
    """The best so many by calibrated score."""
