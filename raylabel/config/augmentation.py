"""Settings of the augmentation of training images."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from raylabel.config.constraints import STRICT, Positive, PositiveInt, Probability
from raylabel.errors import InputError

ColourStrength = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ViewConfig:
    """How an image is changed before a model learns from it; objects follow."""

    flip: Probability = 0.5
    """Chance of a mirror image."""
    colour: ColourStrength = 0.0
    """Strength of the jitter of brightness, contrast and saturation (factors in 1 -+ strength); hue moves by a
    twentieth of it."""
    blur: Probability = 0.0
    """Chance of a slight blur."""
    cutout: Probability = 0.0
    """Chance that one or two rectangles are filled with noise; objects under them are still to be found."""
    min_scale: Positive = 1.0
    """Large-scale jitter: smallest factor on an image's size; it is then cropped or padded to its size before, or to
    `output_size`."""
    max_scale: Positive = 1.0
    """Large-scale jitter: largest factor."""
    output_size: PositiveInt | None = None
    """Side of the square that images are fitted into at scale 1; null is the image's own size."""

    def __post_init__(self) -> None:
        if self.min_scale > self.max_scale:
            raise InputError(f"augmentation: min_scale must be <= max_scale {self.max_scale:g}, got {self.min_scale:g}")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AugmentationConfig(ViewConfig):
    """Augmentation of labelled images."""

    copy_paste: Probability = 0.0
    """Chance that the rare objects of another image are pasted in. Rare are classes that `repeat_threshold` repeats;
    images are drawn by how often."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StrongViewConfig(ViewConfig):
    """The student's view of pool images."""

    colour: ColourStrength = 0.4
    """See ViewConfig; hue moves little, as colour can be what tells classes apart."""
    blur: Probability = 0.3
    """See ViewConfig."""
    cutout: Probability = 0.5
    """See ViewConfig."""
