"""Federated loss: which classes take part in an image's class loss where not all were looked for."""

import numpy as np
from numpy.typing import NDArray

from raylabel.config import FederatedLossConfig
from raylabel.dataset.annotations import AnnotatedSet
from raylabel.errors import InputError


def federated_classes(annotated: AnnotatedSet, settings: FederatedLossConfig) -> "FederatedClasses | None":
    """What draws the classes of each image's loss; None where the settings want all of them.

    Raises:
        InputError: a federated loss of a set in which every class was looked for.
    """
    if not settings.enabled:
        return None
    if not annotated.is_federated:
        raise InputError("federated_loss.enabled needs data.labelled with neg_category_ids, as LVIS has")
    return FederatedClasses(annotated, settings)


class FederatedClasses:
    """Draws the classes of an image's class loss.

    Args:
        annotated: a federated set, such as LVIS.
        settings: how many classes, and which.

    Source: Gupta et al. 2019 (arXiv 1908.03195) for what is verified; Zhou et al. 2021 (arXiv 2103.07461) for the draw.
    """

    def __init__(self, annotated: AnnotatedSet, settings: FederatedLossConfig) -> None:
        self._annotated, self._num_wanted = annotated, settings.num_classes
        counts = annotated.class_image_counts()
        self._shares = np.where(counts > 0, np.maximum(counts, 1) ** settings.power, 0.0)

    def draw(self, row: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        """(num_classes + 1,) classes of one image: what is annotated in it, what is verified to be absent, background,
        and others by their frequency until there are so many."""
        mask = np.zeros(len(self._shares) + 1, bool)
        mask[-1] = True
        # Crowd regions count as annotated: the class is there.
        mask[self._annotated.object_classes(row)] = True
        mask[sorted(self._annotated.images[row].negative_classes)] = True
        shares = np.where(mask[:-1], 0.0, self._shares)
        num = min(self._num_wanted - np.count_nonzero(mask[:-1]), np.count_nonzero(shares))
        if num > 0:
            mask[rng.choice(len(shares), num, replace=False, p=shares / shares.sum())] = True
        return mask
