"""Settings of the pseudo-labels: correction of scores, inference over the pool, selection."""

from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from raylabel.config.constraints import STRICT, NonNegative, NonNegativeInt, PositiveInt, Probability
from raylabel.config.corrector_kinds import CorrectorKind

MaskQuality = Literal["probability", "agreement"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CalibrationConfig:
    """How the teacher's scores are corrected."""

    corrector: CorrectorKind = "auto"
    """Kind of the corrector (docs/calibration.md). `auto` compares all kinds by cross-validation, and keeps `none`
    unless another kind is better. It never chooses the four kinds that take few samples at face value."""
    num_bins: Annotated[int, Field(ge=2)] = 15
    """Number of confidence bins of equal width over (0, 1], at least 2. Calibration errors and binned correctors use
    them."""
    folds: NonNegativeInt = 0
    """0 calibrates on the split `data.calibration`. k >= 2 needs no split. k teachers each train on k - 1 folds of
    `labelled`, and predict the fold that they have not seen. Use folds if labels are too few to keep some aside. Folds
    cost k more trainings."""
    iou_threshold: Probability = 0.5
    """Smallest mask IoU with an object at which a detection can be correct, in [0, 1]."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TileConfig:
    """Tiles of large images."""

    size: Annotated[int, Field(ge=16)]
    """Side of a tile in pixels, at least 16: about that of the images that the model was trained on (before
    `min_size`)."""
    overlap: Annotated[float, Field(ge=0, le=0.9)] = 0.2
    """Smallest common part of neighbouring tiles, as a share of their side, in [0, 0.9]. It should be as large as usual
    objects, because an object that no tile shows whole is put together from its parts."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LabelConfig:
    """Inference over the pool."""

    shard_size: PositiveInt = 256
    """Images per shard. A shard is the unit of work, of retry and of commit: an interruption loses at most one shard
    per worker."""
    num_workers: PositiveInt | Literal["auto"] = "auto"
    """Number of labelling workers (Ray actors). `auto` starts one worker per `num_gpus` GPUs. Without GPUs it starts
    one worker per `num_cpus` CPUs of each machine. The workers share all CPUs but one per machine. On 2 CPUs, 2 workers
    reserve half a CPU each."""
    num_cpus: NonNegative = 1.0
    """CPUs that Ray reserves per worker, and threads of the worker's model. One whole CPU of the cluster must stay
    free."""
    num_gpus: NonNegative = 0.0
    """GPUs per worker. A worker with more than 0 predicts on CUDA. A fraction lets workers share a GPU."""
    memory_gb: NonNegative = 1.0
    """Memory that Ray reserves per worker, in GB (10^9 bytes). Ray starts no more workers on a machine than its memory
    holds. docs/clusters.md has measured figures. 0 reserves none."""
    decoding: Literal["auto", "threads", "tasks"] = "auto"
    """What reads and decodes images: `threads` of the worker, or Ray `tasks` on any CPU of the cluster. `auto` uses
    tasks where `num_gpus` is above 0, so that a GPU does not wait for the CPUs beside it."""
    batch_size: PositiveInt = 16
    """Images per forward pass; all images of a batch have one size. Large images get smaller batches. A batch
    that is too large for the memory is halved, which costs time. Lower the number if many are."""
    max_bad_fraction: Probability = 0.05
    """Largest share of the pool's images that may be quarantined, in [0, 1]. `label` fails as soon as more are.
    Committed shards are kept."""
    score_threshold: Probability = 0.05
    """Smallest raw score of a stored prediction, in [0, 1]. Lower it where rare classes have low scores. The files then
    grow."""
    max_per_image: PositiveInt = 100
    """Largest number of stored predictions per image."""
    top_k: PositiveInt = 20
    """Number of entries of the soft vector that are stored per prediction. Soft targets of the student are made from
    them."""
    mask_quality: MaskQuality = "probability"
    """How the mask quality of a prediction is measured. `probability`: mean mask probability inside the mask.
    `agreement`: largest mask IoU with the predictions on the mirrored image, which takes a second forward pass per
    image."""

    tile: TileConfig | None = None
    """Cut larger images into tiles, predict each tile, and merge the predictions at the seams. Every prediction does
    so: of the pool, and of calibration and validation images. null predicts images whole. Training does not cut: see
    `augmentation.output_size`."""

    @property
    def later_inputs(self) -> dict[str, Any]:
        """The settings that came later and enter fingerprints.

        Empty at the defaults, so that runs made before the settings existed stay finished.
        """
        quality = {} if self.mask_quality == "probability" else {"mask_quality": self.mask_quality}
        return quality | ({"tile": [self.tile.size, self.tile.overlap]} if self.tile else {})


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SelectionConfig:
    """Which predictions become pseudo-labels. Changing the selection does not predict the pool again."""

    min_score: Probability = 0.5
    """Smallest calibrated score, in [0, 1]. A calibrated score of 0.5 means that half of such predictions are
    correct."""
    min_score_by_group: dict[Literal["r", "c", "f"], Probability] = Field(default_factory=dict)
    """Smallest calibrated score per frequency group (r: rare, c: common, f: frequent), in place of `min_score`. Lower
    the score of `r` where too few rare pseudo-labels pass."""
    min_mask_quality: Probability = 0.0
    """Smallest mask quality, in [0, 1]; see `label.mask_quality`."""
    min_area: NonNegativeInt = 1
    """Smallest mask area in pixels."""
    max_per_image: PositiveInt = 300
    """Largest number of pseudo-labels per image. Those with the largest calibrated scores are kept."""
