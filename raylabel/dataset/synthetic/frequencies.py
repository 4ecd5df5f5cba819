"""The classes that generated images show: Zipf frequencies with exact image counts, so that no class is absent."""

import numpy as np
from numpy.typing import NDArray

_OBJECTS_PER_IMAGE = (1, 2, 3, 4, 5)
_SHARE_OF_IMAGES = (0.12, 0.23, 0.30, 0.22, 0.13)
# Share of distinct classes among the objects. The other objects repeat a class of their image.
_DISTINCT_SHARE = 0.88
_LARGEST_SHARE = 0.85
_ZIPF_EXPONENT, _ZIPF_SHIFT = 1.2, 0.5


def zipf_weights(ranks: NDArray[np.int64], *, flatten: float = 1.0) -> NDArray[np.float64]:
    """Return (num_classes,) weights that sum to 1, proportional to (rank + 1.5) ** (-1.2 * flatten).

    Args:
        ranks: rank of each class, 0 for the most frequent.
        flatten: 1 for the full skew, 0 for none.
    """
    weights = (ranks + 1 + _ZIPF_SHIFT) ** (-_ZIPF_EXPONENT * flatten)
    return weights / weights.sum()


def draw_classes(
    num_images: int, weights: NDArray[np.float64], min_images: int, rng: np.random.Generator
) -> list[list[int]]:
    """Draw the class indices of each image's objects, 1 to 5 per image.

    A class's weight fixes its number of images, and only the choice of the images is random. Every class is in at least
    `min_images` images, or in as many as there is room for.
    """
    num_classes = len(weights)
    num_objects = rng.choice(_OBJECTS_PER_IMAGE, size=num_images, p=_SHARE_OF_IMAGES)
    while num_objects.sum() * _DISTINCT_SHARE < num_classes and (num_objects < max(_OBJECTS_PER_IMAGE)).any():
        num_objects = np.minimum(num_objects + 1, max(_OBJECTS_PER_IMAGE))
    num_distinct = num_objects.sum() * _DISTINCT_SHARE
    floor = min(min_images, int(num_distinct // num_classes))
    wanted = np.clip(np.round(weights * num_distinct), floor, max(floor, _LARGEST_SHARE * num_images)).astype(int)

    chosen: list[list[int]] = [[] for _ in range(num_images)]
    free = num_objects.copy()
    # Frequent classes give up images first, because rare classes need their few.
    for _ in range(max(0, int(wanted.sum() - free.sum()))):
        wanted[wanted.argmax()] -= 1
    for class_index in np.argsort(-wanted, kind="stable"):
        num = min(int(wanted[class_index]), int((free > 0).sum()))
        if num:
            rows = rng.choice(num_images, size=num, replace=False, p=free / free.sum())
            free[rows] -= 1
            for row in rows:
                chosen[row].append(int(class_index))
    for row in np.flatnonzero(free):
        shown = chosen[row] or [int(rng.choice(num_classes, p=weights))]
        chosen[row] += rng.choice(shown, size=num_objects[row] - len(chosen[row])).tolist()
    for of_image in chosen:
        rng.shuffle(of_image)
    return chosen
