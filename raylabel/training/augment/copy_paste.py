"""Copy-paste: objects of rare classes from one image into another."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raylabel.dataset.sampling import class_repeat_factors, repeat_factors
from raylabel.models.segmenter import Target
from raylabel.training.augment.scale_jitter import visible


class RareDonors:
    """Images that show a rare class, drawn by their repeat factors.

    A class or an image is rare if its repeat factor is above 1.

    Args:
        image_classes: class indices per image.
        num_classes: number of classes.
        threshold: the threshold of repeat-factor sampling.
    """

    def __init__(self, image_classes: Sequence[NDArray[Any]], num_classes: int, threshold: float) -> None:
        self.is_rare = class_repeat_factors(image_classes, num_classes, threshold) > 1
        excess = repeat_factors(image_classes, num_classes, threshold) - 1
        self._rows = np.flatnonzero(excess > 0)
        self._shares = excess[self._rows] / excess[self._rows].sum()

    def draw(self, rng: np.random.Generator) -> int | None:
        """Draw the row of an image with a chance proportional to its repeat factor - 1. None if no class is rare."""
        return int(rng.choice(self._rows, p=self._shares)) if len(self._rows) else None


def paste_objects(
    image: Tensor, target: Target, donor_image: Tensor, donor: Target, rng: np.random.Generator
) -> tuple[Tensor, Target]:
    """Paste every object of a donor image at a random place of an image.

    Each object covers the image and the objects that were pasted before it. Covered objects lose those pixels; hidden
    objects are dropped. Boxes become the bounds of the visible pixels. Objects larger than the image are left out.

    Args:
        image, target: the image, (3, H, W), and its objects. Neither is changed.
        donor_image, donor: the donor image of any size and its objects. Soft targets and weights are kept.
        rng: draws the order and the places.

    Source: Ghiasi et al. 2021 (arXiv 2012.07177). They paste objects where they were; random places are ours.
    """
    height, width = image.shape[-2:]
    donor = visible(donor)
    image, masks = image.clone(), target.masks_NHW.bool()
    pasted: list[int] = []
    for row in rng.permutation(len(donor)):
        x0, y0, x1, y1 = donor.boxes_xyxy[row].int().tolist()
        if y1 - y0 > height or x1 - x0 > width:
            continue
        top, left = int(rng.integers(height - (y1 - y0) + 1)), int(rng.integers(width - (x1 - x0) + 1))
        place = slice(top, top + y1 - y0), slice(left, left + x1 - x0)
        shape = donor.masks_NHW[row, y0:y1, x0:x1].bool()
        image[:, *place] = torch.where(shape, donor_image[:, y0:y1, x0:x1], image[:, *place])
        mask = torch.zeros(1, height, width, dtype=torch.bool)
        mask[0, *place] = shape
        masks = torch.cat([masks & ~mask, mask])
        pasted.append(int(row))
    added = donor[torch.tensor(pasted, dtype=torch.int64)]
    class_mask = target.class_mask.clone()
    class_mask[added.class_probs.argmax(dim=1)] = True  # because a pasted class is known to be in the image
    together = Target(
        boxes_xyxy=torch.cat([target.boxes_xyxy, added.boxes_xyxy]),
        masks_NHW=masks,
        class_probs=torch.cat([target.class_probs, added.class_probs]),
        weights=torch.cat([target.weights, added.weights]),
        location_weights=torch.cat([target.location_weights, added.location_weights]),
        class_mask=class_mask,
    )
    return image, visible(together)
