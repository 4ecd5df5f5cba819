"""Settings of the data: where images and annotations are."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from raylabel.config.constraints import STRICT, NonNegativeInt, PositiveInt

TarSamples = Literal["files", "webdataset"]
"""Rules by which the images of a tar are listed."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SplitFraction:
    """A part of the labelled set that is kept out of training. A hash of image id and seed chooses its images."""

    fraction: Annotated[float, Field(gt=0, lt=1)]
    """Share of the labelled images, in (0, 1). The fractions of all parts must sum to less than 1."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LabelledPortion:
    """A portion of a labelled file, as in the protocols of semi-supervised learning. Rare classes are not lost.

    The portion is one of the images that the fractions of `calibration` and `validation` leave, so these splits are the
    same for every portion. The other images join the pool. Their annotations are used for measuring only.
    """

    file: str
    """LVIS or COCO JSON file; a path or URI."""
    fraction: Annotated[float, Field(gt=0, lt=1)]
    """Share of the images, in (0, 1). With one seed, a smaller portion is part of a larger one. Every class keeps an
    image if the portion has as many images as there are classes (`raylabel.dataset.portions`)."""
    seed: NonNegativeInt = 0
    """Seed of the choice. It does not follow the run's `seed`, so that runs with other seeds learn from the same
    images."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataConfig:
    """Where the images and their annotations are. Relative paths are relative to the folder of the config file."""

    labelled: str | LabelledPortion
    """LVIS or COCO JSON file with the labelled images; a path or URI. Or `{file: ..., fraction: 0.1}`: a tenth of them.
    The other images then join the pool."""
    images: str
    """Folder or URI prefix of the images that the JSON files name."""
    calibration: str | SplitFraction | None = None
    """JSON file of the calibration split, or `{fraction: 0.1}` of `labelled`. Training never sees these images. With
    `calibration.folds` no split is needed, and the images of a fraction are trained on."""
    validation: str | SplitFraction
    """JSON file of the validation split, or `{fraction: 0.1}` of `labelled`. Only `evaluate` and the evaluations during
    training (`evaluate_every`) use it."""
    pool: str | SplitFraction | None = None
    """The unlabelled images: a folder, URI prefix, Parquet file, tar file, manifest or S3 Inventory (`manifest.json`),
    or a pattern such as `shard-{000..127}.tar`. Or `{fraction: 0.3}` of `labelled`, whose annotations are then used for
    measuring only. Where `labelled` is a portion, the other images of its file are in the pool, and null adds none to
    them. The next `label` also labels the images added to the pool since the last one."""
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

    @property
    def labelled_file(self) -> str:
        """The file with the labelled images, wholly used or not."""
        return self.labelled if isinstance(self.labelled, str) else self.labelled.file
