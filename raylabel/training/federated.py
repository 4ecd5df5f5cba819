"""Federated loss: the classes that take part in an image's class loss if annotators looked only for some."""

import numpy as np
from numpy.typing import NDArray

from raylabel.config import FederatedLossConfig
from raylabel.dataset.annotations import AnnotatedSet
from raylabel.errors import InputError


def federated_classes(annotated: AnnotatedSet, settings: FederatedLossConfig) -> "FederatedClasses | None":
    """Make the draw of the classes of each image's loss. None if the settings use every class.

    Raises:
        InputError: the settings ask for a federated loss, but the annotated set is not federated.
    """
    if not settings.enabled:
        return None
    if not annotated.is_federated:
        raise InputError("federated_loss.enabled needs data.labelled with neg_category_ids, as in LVIS")
    return FederatedClasses(annotated, settings)


class FederatedClasses:
    """Draws the classes of an image's class loss.

    Args:
        annotated: a federated set, such as LVIS.
        settings: number of classes, and the power of their frequency by which they are drawn.

    Source: Gupta et al. 2019 (arXiv 1908.03195) for verified classes; Zhou et al. 2021 (arXiv 2103.07461) for the draw.
    """

    def __init__(self, annotated: AnnotatedSet, settings: FederatedLossConfig) -> None:
        self._annotated, self._num_wanted = annotated, settings.num_classes
        counts = annotated.class_image_counts()
        self._shares = np.where(counts > 0, np.maximum(counts, 1) ** settings.power, 0.0)

    def draw(self, row: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Draw the classes of one image's loss, as a mask of shape (num_classes + 1,).

        Annotated classes, classes verified to be absent, and the background always take part. Other classes are drawn
        by their frequency until `settings.num_classes` take part, without the background.
        """
        mask = np.zeros(len(self._shares) + 1, bool)
        mask[-1] = True
        # With crowd regions, because they too show that the class is in the image.
        mask[self._annotated.object_classes(row)] = True
        mask[self._annotated.negative_class_lists.row(row)] = True
        shares = np.where(mask[:-1], 0.0, self._shares)
        num = min(self._num_wanted - np.count_nonzero(mask[:-1]), np.count_nonzero(shares))
        if num > 0:
            mask[rng.choice(len(shares), num, replace=False, p=shares / shares.sum())] = True
        return mask
