"""A segmenter that finds nothing in images that are not read. What remains of labelling is raylabel's own work.

Processes that build it (the workers) replace image reading by a constant image.
"""

from collections.abc import Sequence
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raylabel.dataset.images import ImageReader
from raylabel.models.segmenter import LOSS_TERMS, LossTerm, Target
from raylabel.predictions.instances import Instances

PIXELS = np.zeros((8, 8, 3), np.uint8)


def _constant_image(reader: ImageReader, uri: str, **kwargs: object) -> NDArray[np.uint8]:
    return PIXELS


class IdleSegmenter(nn.Module):
    """Predicts no instance."""

    def __init__(self, *, num_classes: int, min_size: int | None = None) -> None:
        super().__init__()
        patch.object(ImageReader, "read", _constant_image).start()
        self.num_classes = num_classes
        self.layer = nn.Linear(1, 1)

    def losses(
        self, images: list[Tensor], targets: Sequence[Target], *, terms: frozenset[LossTerm] = LOSS_TERMS
    ) -> dict[str, Tensor]:
        return dict.fromkeys(sorted(terms), self.layer.weight.sum())

    def predict(self, images: list[Tensor], *, score_threshold: float, max_per_image: int) -> list[Instances]:
        return [self._nothing for _ in images]

    @property
    def _nothing(self) -> Instances:
        return Instances(
            image_size_hw=(PIXELS.shape[0], PIXELS.shape[1]),
            boxes_xyxy=np.zeros((0, 4), np.float32),
            masks=(),
            class_indices=np.zeros(0, np.int32),
            raw_scores=np.zeros(0, np.float32),
            soft_vectors=np.zeros((0, self.num_classes + 1), np.float32),
            mask_quality=np.zeros(0, np.float32),
        )

    def embed(self, images: list[Tensor], targets: Sequence[Target], *, layer: str | None = None) -> list[Tensor]:
        return [torch.zeros(len(target), 1) for target in targets]
