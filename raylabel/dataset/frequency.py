"""Frequency groups of classes: rare, common, frequent, by the number of training images (LVIS).

Arrays of groups hold the letters "r", "c" and "f", one per class, as strings.
"""

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

MAX_RARE_IMAGES = 10
MAX_COMMON_IMAGES = 100


class FrequencyGroup(StrEnum):
    """A frequency group; its value is the letter that files, settings and arrays hold.

    Examples:
        >>> FrequencyGroup("r").title
        'rare'
        >>> ", ".join(FrequencyGroup)
        'r, c, f'
    """

    RARE = "r"
    """1 to 10 training images."""
    COMMON = "c"
    """11 to 100 training images."""
    FREQUENT = "f"
    """More than 100 training images."""

    @property
    def title(self) -> str:  # type: ignore[override]  # in place of str.title, which no letter needs
        """The group's name for people: "rare", "common" or "frequent"."""
        return self.name.lower()


def group_title(name: str) -> str:
    """Return the title of a frequency group's letter, and any other name ("all", say) unchanged."""
    return FrequencyGroup(name).title if name in tuple(FrequencyGroup) else name


def frequency_groups(image_counts: NDArray[np.int64]) -> NDArray[np.str_]:
    """Return the (num_classes,) frequency groups of classes by their numbers of training images.

    A class without an image is rare.
    """
    is_rare, is_common = image_counts <= MAX_RARE_IMAGES, image_counts <= MAX_COMMON_IMAGES
    return np.where(
        is_rare,
        FrequencyGroup.RARE.value,
        np.where(is_common, FrequencyGroup.COMMON.value, FrequencyGroup.FREQUENT.value),
    )
