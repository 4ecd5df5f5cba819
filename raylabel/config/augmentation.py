"""Settings of the augmentation of training images."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from raylabel.config.constraints import STRICT, Positive, PositiveInt, Probability
from raylabel.errors import InputError

ColourStrength = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ViewConfig:
    """Random changes of an image before a model learns from it. Boxes and masks change with the image."""

    flip: Probability = 0.5
    """Chance of mirroring the image left to right. Set 0 where left and right matter, as in text or signs."""
    colour: ColourStrength = 0.0
    """Strength s of the colour jitter, in [0, 1). Brightness, contrast and saturation are multiplied by factors from
    1 - s to 1 + s; hue moves by up to s / 20 of the colour circle. Raise it where light varies. Keep it low where
    colour tells classes apart."""
    blur: Probability = 0.0
    """Chance of a slight Gaussian blur (sigma 0.1 to 1 pixel)."""
    cutout: Probability = 0.0
    """Chance that one or two rectangles are filled with noise. Their sides are 10% to 25% of the image's sides. Objects
    under a rectangle stay in the targets."""
    min_scale: Positive = 1.0
    """Large-scale jitter: smallest factor on the image's size. The resized image is cropped or padded back to its
    original size, or to `output_size`. Use 0.8 to 1.25 (`min_scale` to `max_scale`) for short trainings, 0.1 to 2 for
    tens of epochs."""
    max_scale: Positive = 1.0
    """Large-scale jitter: largest factor on the image's size, at least `min_scale`."""
    output_size: PositiveInt | None = None
    """Side in pixels of the square that an image fits into at scale 1. null keeps the image's own size."""

    def __post_init__(self) -> None:
        if self.min_scale > self.max_scale:
            raise InputError(f"augmentation: min_scale must be <= max_scale {self.max_scale:g}, got {self.min_scale:g}")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AugmentationConfig(ViewConfig):
    """Augmentation of labelled images."""

    copy_paste: Probability = 0.0
    """Chance that the rare objects of another image are pasted in at random places. A class is rare here if
    `repeat_threshold` repeats it; images with a larger repeat factor are drawn more often. Try 0.3 to 0.5 where rare
    classes have a handful of images. Each paste reads a second image."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StrongViewConfig(ViewConfig):
    """The student's view of pool images, strong so that the student cannot copy the teacher."""

    colour: ColourStrength = 0.4
    """Strength of the colour jitter; see `ViewConfig.colour`. Hue moves little, because colour may tell classes
    apart."""
    blur: Probability = 0.3
    """Chance of a slight blur; see `ViewConfig.blur`."""
    cutout: Probability = 0.5
    """Chance of rectangles of noise; see `ViewConfig.cutout`."""
