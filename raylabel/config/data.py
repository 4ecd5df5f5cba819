"""Settings of the data: where images and annotations are."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from raylabel.config.constraints import STRICT, PositiveInt


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SplitFraction:
    """A part of the labelled set that is kept out of training, chosen by a hash of the image id and the seed."""

    fraction: Annotated[float, Field(gt=0, lt=1)]
    """Share of the labelled images."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataConfig:
    """Where the images and their annotations are. Relative paths are relative to the config file."""

    labelled: str
    """LVIS or COCO JSON with the labelled images."""
    images: str
    """Folder or URI prefix of the images that the JSON files name."""
    calibration: str | SplitFraction | None = None
    """JSON of the calibration split, or `{fraction: 0.1}` of `labelled`. With `calibration.folds` none is needed, and
    images of a fraction are learnt from."""
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
