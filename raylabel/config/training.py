"""Settings of the models and their training."""

from typing import Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from raylabel.config.augmentation import AugmentationConfig, StrongViewConfig
from raylabel.config.constraints import STRICT, NonNegative, NonNegativeInt, Positive, PositiveInt, Probability
from raylabel.config.optimizer import OptimizerConfig, TeacherOptimizerConfig

SmoothingKind = Literal["none", "uniform", "similarity"]

IMAGENET = "imagenet"
"""Name of the ImageNet classifier's weights that the extra `pretrained` installs."""

DOWNLOADED = ("torchvision", "transformers")
"""Packages whose weights a config may name as `package:name`. Nothing else is ever downloaded."""


def has_weights_name(weights: str) -> bool:
    """Tell whether weights are given by a name, not by a path."""
    return weights == IMAGENET or weights.partition(":")[0] in DOWNLOADED


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SmoothingConfig:
    """Label smoothing of the teacher's class targets (docs/method.md, "Similarity label smoothing")."""

    kind: SmoothingKind = "none"
    """Where the mass taken from the true class goes. `none`: no smoothing. `uniform`: evenly to the other classes.
    `similarity`: to the classes whose prototypes are similar, the paper's idea. It gained 2.3 APr with 120 labelled
    images and nothing with 240, and correcting the scores gained more (docs/results.md); so it is not the default."""
    eps_min: Probability = 0.02
    """Mass taken from the most frequent class where it is the true class, in [0, 1]; at most `eps_max`."""
    eps_max: Probability = 0.2
    """Mass taken from the rarest class where it is the true class, in [0, 1]. Classes between get masses between."""
    tau: Positive = 0.1
    """Temperature of the softmax over similarities. Smaller values give the mass to fewer, more similar classes."""
    warmup_steps: NonNegativeInt = 150
    """Steps of the warm-up that trains the embedder. It runs only if neither `teacher.weights` nor `embedder` is given.
    The teacher continues from the warm-up, and these steps count into `teacher.steps`."""
    embedder: str | None = None
    """Folder of a saved model, of any family and classes, whose features make the prototypes. null uses the teacher's
    own model."""
    layer: str | None = None
    """Layer of the embedder whose features embed the instances: one of the model's `embed_layers` (docs/models.md).
    null is the first of them. Use `backbone` where only the backbone is pretrained."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FederatedLossConfig:
    """Class loss for labelled images in which not every class was looked for, as in LVIS."""

    enabled: bool = False
    """Leave unverified classes out of an image's class loss, except those that are drawn. A class is verified if it is
    annotated in the image or listed as absent (`neg_category_ids`). Turn it on for LVIS; a set without
    `neg_category_ids` is refused."""
    num_classes: NonNegativeInt = 50
    """Number of classes in an image's class loss. If fewer are verified, the others are drawn by frequency. 0 draws
    none."""
    power: NonNegative = 0.5
    """Exponent of the draw: a class is drawn in proportion to its number of images to this power. 0 draws all alike."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainingConfig:
    """Settings that the trainings of teacher and student share."""

    model: str = "tiny_maskrcnn"
    """Model family: a name of `raylabel.models.build.BUILDERS` (docs/models.md), or your own class as
    `module:Class`."""
    model_options: dict[str, Any] = Field(default_factory=dict)
    """Options of the family. For Mask2Former and EoMT: settings of transformers' config. For your own class: its
    keyword arguments. model.json keeps them."""
    weights: str | None = None
    """Pretrained weights; null starts at random. A local file: .safetensors, a torch state dict (.pth), or the .onnx
    file of a model `onnx`. Or the folder of a saved model. Or a name: `imagenet` (for `maskrcnn_efficientnet_lite0`;
    the extra `pretrained` installs them), or `torchvision:NAME` or `transformers:REPO_ID`, downloaded once
    (docs/models.md)."""
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    """Learning rates, schedule, precision, moving average."""
    augmentation: AugmentationConfig = Field(default_factory=AugmentationConfig)
    """Augmentation of labelled images."""
    repeat_threshold: NonNegative = 0.1
    """Repeat-factor sampling (LVIS): images with a class that is in a share f of the images are drawn
    sqrt(`repeat_threshold` / f) times as often, at least once. 0 turns it off. LVIS uses 0.001."""
    federated_loss: FederatedLossConfig = Field(default_factory=FederatedLossConfig)
    """Class loss for labelled sets with `neg_category_ids`, such as LVIS."""
    num_workers: PositiveInt = 2
    """Number of DDP workers. Each takes an equal part of the batch."""
    min_workers: PositiveInt | None = None
    """Smallest number of workers with which training continues after machines are lost; at most `num_workers`. The
    remaining workers take over the parts of the lost ones, so that the batch of a step stays the same. Returning
    machines are used again. null waits for all `num_workers`."""
    cpus_per_worker: Positive = 0.5
    """CPUs that Ray reserves per worker."""
    gpus_per_worker: NonNegative = 0.0
    """GPUs per worker. A worker with more than 0 trains on CUDA."""
    memory_gb_per_worker: NonNegative = 1.0
    """Memory that Ray reserves per worker, in GB (10^9 bytes); see `label.memory_gb`."""
    checkpoint_every: PositiveInt = 100
    """Steps between checkpoints. An interrupted training continues from the last checkpoint. Lower it on machines that
    may be taken away."""
    decoding: Literal["auto", "threads", "tasks"] = "auto"
    """What reads and decodes images: a thread of each worker (`threads`), or Ray Data on any CPU of the cluster
    (`tasks`). `auto` uses tasks where `gpus_per_worker` is above 0, so that a GPU does not wait for the CPUs beside
    it."""
    keep_checkpoints: PositiveInt = 2
    """Number of latest checkpoints that are kept during a training."""
    evaluate_every: NonNegativeInt = 0
    """Steps between evaluations of the moving average on validation images (`ema_AP` in metrics.jsonl). 0 never
    evaluates. The evaluations do not change the training."""
    evaluate_images: PositiveInt = 64
    """Number of validation images per such evaluation, chosen evenly."""
    min_size: PositiveInt | None = None
    """Length in pixels of an image's short side: images are resized to it before the model. null keeps their size."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TeacherConfig(TrainingConfig):
    """The model that labels the pool."""

    optimizer: TeacherOptimizerConfig = Field(default_factory=TeacherOptimizerConfig)
    """Learning rates, schedule, precision, moving average."""
    steps: NonNegativeInt = 2500
    """Number of optimizer steps. 0 trains nothing: the model of `weights` is the teacher."""
    batch_size: PositiveInt = 8
    """Images per step, over all workers."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PoolLosses:
    """Weight of each loss term on pool images."""

    classes: NonNegative = 1.0
    """Weight of the soft cross-entropy of the box head."""
    objectness: NonNegative = 1.0
    """Weight of the objectness loss of the region proposals."""
    boxes: NonNegative = 0.0
    """Weight of the box regression losses of proposals and box head. 0 learns no boxes from pseudo-labels."""
    masks: NonNegative = 0.0
    """Weight of the loss of the mask head. 0 learns no masks from pseudo-labels."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StudentConfig(TrainingConfig):
    """The model that is distilled from labelled images and pseudo-labels."""

    steps: PositiveInt = 600
    """Number of optimizer steps."""
    init: Literal["teacher", "weights"] = "teacher"
    """Start from the teacher, which must have the same model and options, or from `weights` (null: at random)."""
    labelled_per_batch: PositiveInt = 4
    """Labelled images per step, over all workers."""
    unlabelled_per_batch: NonNegativeInt = 12
    """Pool images per step, over all workers. 0 learns from labelled images alone."""
    learn_from_calibration: bool = True
    """Whether student and supervised baseline also learn from the images of the calibration split. The teacher's
    corrector is fitted by then. The student's own corrector then comes from the teacher's detections on the split, with
    the scores that the student would give (docs/method.md, "Transfer of scores"). false keeps the split unseen, and the
    student's corrector is fitted to its own detections there."""
    unlabelled_weight: NonNegative = 1.0
    """Weight of the whole loss on pool images, relative to labelled images."""
    pool_losses: PoolLosses = Field(default_factory=PoolLosses)
    """Weights of the single loss terms on pool images."""
    targets: Literal["soft", "hard"] = "soft"
    """Class targets of pseudo-labels. `soft`: the soft vector. `hard`: 1 for the predicted class (the usual
    baseline)."""
    correct_targets: bool = True
    """Put the calibrated score of the predicted class into soft targets, in place of its raw score. Selection always
    uses calibrated scores."""
    select_by: Literal["score", "foreground"] = "foreground"
    """Which predictions the student learns from. `score`: those that pass `selection`. `foreground`: those whose raw
    foreground probability (1 - background) is at least `min_foreground`, whatever their class. The smallest scores of
    `selection` then do not count; its other limits do."""
    min_foreground: Probability = 0.5
    """Smallest foreground probability with `select_by: foreground`, in [0, 1]."""
    weight_masks_by: Literal["none", "quality"] = "none"
    """`quality` weighs the box and mask losses of each pseudo-label by its mask quality (`label.mask_quality`). It
    has an effect only if `pool_losses` has these terms."""
    weight_by_score: bool = False
    """Weigh the class loss of each pseudo-label by its calibrated score."""
    strong_view: StrongViewConfig = Field(default_factory=StrongViewConfig)
    """Augmentation of pool images."""
    doubtful_score: Probability = 0.1
    """Smallest foreground probability of a doubtful prediction, in [0, 1]. Selection drops doubtful predictions, but
    they do not count as background either: regions over them are left out of every loss. 1 counts every dropped
    prediction as background."""
    burn_in_steps: NonNegativeInt | None = None
    """Steps in which the committed labels guide the student. Afterwards the moving average of the student's weights
    relabels the pool images of each batch, on their weak view. null uses the committed labels to the end."""
    rounds: PositiveInt = 1
    """Number of rounds of labelling, calibrating and distilling. The student of a round is the teacher of the next.
    With `calibration.folds`, a further round is calibrated by the detections of the fold teachers."""
    supervised_baseline: bool = True
    """Also train a baseline on labelled images alone, with the same steps and images per step. The report compares the
    student with it; false saves its training."""
