"""Classes of the generated set: shapes in overlapping ranges of hue, so that every class has look-alikes."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylabel.errors import InputError

_HUE_NAMES = (
    "red", "orange", "yellow", "lime", "green", "jade", "cyan", "azure", "blue", "violet", "magenta", "rose",
)  # fmt: skip
_NUM_HUES = 4
_MAX_HUES = 8
# Neighbouring ranges overlap by a sixth of their width at each end, so that hues there belong to two classes.
_HALF_RANGE = 0.6


@dataclass(frozen=True, kw_only=True)
class SyntheticClass:
    """A shape in a range of hue.

    Attributes:
        name: name such as "red_star".
        category_id: id of the category. Ids have gaps, as in real data sets.
        shape: a key of `SHAPES`.
        hue: middle of the range of hue, in [0, 1).
        half_range: half the width of the range.
    """

    name: str
    category_id: int
    shape: str
    hue: float
    half_range: float


def synthetic_classes(num_classes: int) -> list[SyntheticClass]:
    """Return the classes by class index: all hues of the first shape, then of the second, and so on.

    24 classes are 6 shapes x 4 hues.

    Raises:
        InputError: fewer than 2 or more than `max_classes()`.
    """
    if not 2 <= num_classes <= max_classes():
        raise InputError(f"number of classes must be from 2 to {max_classes()}, got {num_classes}")
    num_hues = min(num_classes, max(_NUM_HUES, math.ceil(num_classes / len(SHAPES))))
    classes = []
    for index in range(num_classes):
        shape, hue = list(SHAPES)[index // num_hues], (index % num_hues) / num_hues
        hue_name = _HUE_NAMES[math.floor(hue * len(_HUE_NAMES) + 0.5)]
        classes.append(
            SyntheticClass(
                name=f"{hue_name}_{shape}",
                category_id=3 + 2 * index + (index % 3 == 0),
                shape=shape,
                hue=hue,
                half_range=_HALF_RANGE / num_hues,
            )
        )
    return classes


def max_classes() -> int:
    """Return the largest number of classes."""
    return len(SHAPES) * _MAX_HUES


def _arc(first_degrees: float, last_degrees: float, radius: float = 1.0, num: int = 20) -> NDArray[np.float64]:
    angles = np.deg2rad(np.linspace(first_degrees, last_degrees, num))
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star(num_points: int, inner: float) -> NDArray[np.float64]:
    angles = np.arange(2 * num_points) * np.pi / num_points
    radii = np.where(np.arange(2 * num_points) % 2 == 0, 1.0, inner)
    return radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _heart() -> NDArray[np.float64]:
    t = np.linspace(0, 2 * np.pi, 30, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], axis=1) / 17


def _drop() -> NDArray[np.float64]:
    return np.concatenate([_arc(-50, 230, radius=0.62) + np.array([0, 0.35]), [[0.0, -1.0]]])


# Outlines in [-1, 1]. A second outline is a hole.
SHAPES: dict[str, Callable[[], list[NDArray[np.float64]]]] = {
    "disc": lambda: [_arc(0, 345, num=24) * 0.88],
    "square": lambda: [_arc(45, 315, num=4)],
    "triangle": lambda: [_arc(90, 330, num=3)],
    "star": lambda: [_star(5, 0.42)],
    "cross": lambda: [
        np.array([(-3, 9), (3, 9), (3, 3), (9, 3), (9, -3), (3, -3), (3, -9), (-3, -9), (-3, -3), (-9, -3), (-9, 3),
                  (-3, 3)]) / 9
    ],
    "ring": lambda: [_arc(0, 345, num=24) * 0.94, _arc(0, 345, radius=0.5, num=24)],
    "crescent": lambda: [np.concatenate([_arc(50, 310), _arc(295, 65, radius=0.75) + np.array([0.35, 0])])],
    "arrow": lambda: [np.array([(-9, 3), (0, 3), (0, 8), (9, 0), (0, -8), (0, -3), (-9, -3)]) / 9],
    "heart": lambda: [_heart()],
    "drop": lambda: [_drop()],
    "corner": lambda: [np.array([(-7, -8), (-1, -8), (-1, 2), (8, 2), (8, 8), (-7, 8)]) / 9],
    "bar": lambda: [np.array([(-10, -3), (10, -3), (10, 3), (-10, 3)]) / 10],
}  # fmt: skip
