"""Which images a step learns from: stateless, so that a restored training sees what an undisturbed one would."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from raylabel.models.segmenter import Target

LABELLED_STREAM, POOL_STREAM, MODEL_STREAM = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A part of a step's images: what goes through the model at once.

    Attributes:
        pool_rngs: the generator of each pool image, for what is done to it after reading.
        image_ids: what the images are called in messages, labelled ones first.
    """

    labelled_images: list[Tensor]
    labelled_targets: list[Target]
    pool_images: list[Tensor]
    pool_targets: list[Target]
    pool_rngs: list[np.random.Generator]
    image_ids: list[str]

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        return Batch(
            labelled_images=[one.to(device) for one in self.labelled_images],
            labelled_targets=[one.to(device) for one in self.labelled_targets],
            pool_images=[one.to(device) for one in self.pool_images],
            pool_targets=[one.to(device) for one in self.pool_targets],
            pool_rngs=self.pool_rngs,
            image_ids=self.image_ids,
        )


class Batches(Protocol):
    """The parts of each step's batch, read in some way or other."""

    def batch(self, step: int, part: int) -> Batch:
        """The images of a part of a step; they are asked for in order."""
        ...


def step_seed(seed: int, step: int, stream: int) -> int:
    """A seed in [0, 2**32) of its own for each step and stream (such as a part of the batch)."""
    return int(np.random.SeedSequence([seed, MODEL_STREAM, step, stream]).generate_state(1)[0])
