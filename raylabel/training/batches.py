"""A batch of training images, and the seeds of its random choices.

A batch depends only on the seed and the step, so a restored training sees the same batches as an undisturbed one.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from raylabel.models.segmenter import Target

LABELLED_STREAM, POOL_STREAM, MODEL_STREAM = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One part of the images of a step: the images of one forward pass.

    Attributes:
        labelled_images, pool_images: images, (3, H, W) float32 in [0, 1].
        labelled_targets, pool_targets: one target per image.
        pool_rngs: one generator per pool image, for random choices after reading.
        image_ids: names of the images in messages, labelled images first.
    """

    labelled_images: list[Tensor]
    labelled_targets: list[Target]
    pool_images: list[Tensor]
    pool_targets: list[Target]
    pool_rngs: list[np.random.Generator]
    image_ids: list[str]

    def to(self, device: torch.device) -> "Batch":
        """Copy the images and targets to a device."""
        return Batch(
            labelled_images=[one.to(device) for one in self.labelled_images],
            labelled_targets=[one.to(device) for one in self.labelled_targets],
            pool_images=[one.to(device) for one in self.pool_images],
            pool_targets=[one.to(device) for one in self.pool_targets],
            pool_rngs=self.pool_rngs,
            image_ids=self.image_ids,
        )


class Batches(Protocol):
    """A source of batches, one part of a step at a time."""

    def batch(self, step: int, part: int) -> Batch:
        """Return the images of one part of a step. Callers ask for the parts in order."""
        ...


def step_seed(seed: int, step: int, stream: int) -> int:
    """Derive a seed in [0, 2**32) from the step and the stream, for example a part of the batch."""
    return int(np.random.SeedSequence([seed, MODEL_STREAM, step, stream]).generate_state(1)[0])
