"""Which classes the generated images show: Zipf frequencies with exact image counts, so that no class is absent."""

import numpy as np
from numpy.typing import NDArray

_OBJECTS_PER_IMAGE = (1, 2, 3, 4, 5)
_SHARE_OF_IMAGES = (0.12, 0.23, 0.30, 0.22, 0.13)
# The rest of the objects are further instances of a class that the image shows already.
_DISTINCT_SHARE = 0.88
_LARGEST_SHARE = 0.85
_ZIPF_EXPONENT, _ZIPF_SHIFT = 1.2, 0.5


def zipf_weights(ranks: NDArray[np.int64], *, flatten: float = 1.0) -> NDArray[np.float64]:
    """(num_classes,) weights that sum to 1, proportional to (rank + 1.5) ** (-1.2 * flatten).

    Args:
        ranks: 0-based rank of each class, 0 for the most frequent.
        flatten: 1 for the full skew, 0 for none.
    """
    weights = (ranks + 1 + _ZIPF_SHIFT) ** (-_ZIPF_EXPONENT * flatten)
    return weights / weights.sum()


def draw_classes(
    num_images: int, weights: NDArray[np.float64], min_images: int, rng: np.random.Generator
) -> list[list[int]]:
    """Class indices of each image's objects, 1 to 5 an image.

    The number of images with a class is fixed by its weight and only their choice is random; every class is in at
    least `min_images` images, or in as many as there is room for.
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
    # Where there is barely room, frequent classes leave it to rare ones.
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
