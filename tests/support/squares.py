"""Masks of squares."""

from typing import Any

import numpy as np

from raylabel.masks.rle import encode_masks
from raylabel.predictions.matching import Outcome

SIZE = (20, 20)
CORRECT, INCORRECT, IGNORED = Outcome.CORRECT, Outcome.INCORRECT, Outcome.IGNORED


def squares(*corners: tuple[int, int, int]) -> list[Any]:
    """Make masks of squares from (row, column, side)."""
    masks = np.zeros((len(corners), *SIZE), dtype=bool)
    for mask, (row, column, side) in zip(masks, corners, strict=True):
        mask[row : row + side, column : column + side] = True
    return encode_masks(masks)
