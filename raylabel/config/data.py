"""Settings of the data: where images and annotations are."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from raylabel.config.constraints import STRICT, PositiveInt

TarSamples = Literal["files", "webdataset"]
"""Rules by which the images of a tar are listed."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SplitFraction:
    """A part of the labelled set that is kept out of training. A hash of image id and seed chooses its images."""

    fraction: Annotated[float, Field(gt=0, lt=1)]
    """Share of the labelled images, in (0, 1). The fractions of all parts must sum to less than 1."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataConfig:
    """Where the images and their annotations are. Relative paths are relative to the folder of the config file."""

    labelled: str
    """LVIS or COCO JSON file with the labelled images; a path or URI."""
    images: str
    """Folder or URI prefix of the images that the JSON files name."""
    calibration: str | SplitFraction | None = None
    """JSON file of the calibration split, or `{fraction: 0.1}` of `labelled`. Training never sees these images. With
    `calibration.folds` no split is needed, and the images of a fraction are trained on."""
    validation: str | SplitFraction
    """JSON file of the validation split, or `{fraction: 0.1}` of `labelled`. Only `evaluate` and the evaluations during
    training (`evaluate_every`) use it."""
    pool: str | SplitFraction
    """The unlabelled images: a folder, URI prefix, Parquet file, tar file, manifest or S3 Inventory (`manifest.json`),
    or a pattern such as `shard-{000..127}.tar`. Or `{fraction: 0.3}` of `labelled`, whose annotations are then used for
    measuring only. The next `label` also labels the images added to the pool since the last one."""
    tar_samples: TarSamples = "files"
    """Which images of a pool's tars are listed: "files" lists all, as in the unpacked folder. "webdataset" leaves out
    images with a second dot in their name (`7.mask.png`) beside one without (`7.jpg`). A change acts on the next
    listing: new images get labelled, and labels of images that are no longer listed stay."""
    allowed_schemes: tuple[str, ...] | None = None
    """Schemes that the URIs in a pool's manifest may have, such as `[s3, https]`. Without it, they may have those of
    `pool` and `images`. Other images are quarantined. Neither reaches a host of the machine itself that `pool` or
    `images` does not name."""
    allowed_roots: tuple[str, ...] = ()
    """Local folders that the paths in a pool's manifest may lie in, besides the manifest's folder and `images`. Paths
    elsewhere are quarantined."""
    pool_truth: str | None = None
    """JSON file with the pool's true annotations. `evaluate` measures the pseudo-labels by it. Images are labelled in
    its orientation; a file that is given later labels nothing again."""
    validation_in_pool: Literal["leave_out", "keep"] = "leave_out"
    """What becomes of pool images with the content of a validation image. "leave_out" gives them no pseudo-labels, so
    that no student learns from an image that measures it. "keep" labels them. It acts on the images that get labelled
    from then on; images that were left out before stay so."""
    max_image_pixels: PositiveInt = 50_000_000
    """Largest number of pixels per image. Larger images are quarantined before they are decoded, because decoding takes
    memory in proportion: about 7 bytes a pixel. Raise it for larger images, and set `label.tile`."""
