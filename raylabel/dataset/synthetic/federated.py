"""Federated annotation of generated images, as in LVIS: each class is annotated in a sample of the images."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_UNKNOWN_SHARE = 0.05
_NEGATIVE_SHARE = 0.3
_NOT_EXHAUSTIVE_SHARE = 0.35


@dataclass(frozen=True, kw_only=True)
class FederatedImage:
    """The annotations of one image.

    Attributes:
        kept: sorted indices of the annotated objects.
        negative_classes: sorted classes that are verified to be absent.
        not_exhaustive_classes: sorted classes with objects that are not annotated.
    """

    kept: tuple[int, ...]
    negative_classes: tuple[int, ...]
    not_exhaustive_classes: tuple[int, ...]


def federate(
    classes_by_image: Sequence[Sequence[int]],
    num_classes: int,
    seed: Sequence[int],
    *,
    unknown_share: float = _UNKNOWN_SHARE,
) -> list[FederatedImage]:
    """Drop annotations, and sample the absent classes that count as verified.

    For each class:

    - A share `unknown_share` of the images that show it lose all its annotations. The number is rounded down, so at 5%
      a class in fewer than 20 images loses none.
    - 30% of the images without it, and at least one, list it as negative.
    - 35% of the images with several of its objects lose about half of them, and list it as not exhaustive.

    Args:
        classes_by_image: class indices of all objects, per image.
        num_classes: number of classes.
        seed: seeds of the random choices.
        unknown_share: share of images per class, in [0, 1].
    """
    rng = np.random.default_rng(seed)
    num_images = len(classes_by_image)
    dropped: list[set[int]] = [set() for _ in range(num_images)]
    negative: list[list[int]] = [[] for _ in range(num_images)]
    not_exhaustive: list[list[int]] = [[] for _ in range(num_images)]
    objects: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row, classes in enumerate(classes_by_image):
        for index, class_index in enumerate(classes):
            objects[class_index][row].append(index)

    for class_index in range(num_classes):
        of_class = objects[class_index]
        rows = rng.permutation(sorted(of_class))
        num_unknown = int(unknown_share * len(rows))
        for row in rows[:num_unknown]:
            dropped[row].update(of_class[row])
        several = [row for row in rows[num_unknown:] if len(of_class[row]) > 1]
        for row in several[: round(_NOT_EXHAUSTIVE_SHARE * len(several))]:
            dropped[row].update(of_class[row][: len(of_class[row]) // 2])
            not_exhaustive[row].append(class_index)
        absent = np.array([row for row in range(num_images) if row not in of_class], dtype=int)
        num_verified = min(len(absent), max(1, round(_NEGATIVE_SHARE * len(absent))))
        for row in rng.choice(absent, size=num_verified, replace=False):
            negative[row].append(class_index)
    return [
        FederatedImage(
            kept=tuple(index for index in range(len(classes)) if index not in dropped[row]),
            negative_classes=tuple(negative[row]),
            not_exhaustive_classes=tuple(not_exhaustive[row]),
        )
        for row, classes in enumerate(classes_by_image)
    ]
