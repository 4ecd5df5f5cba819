"""Instances: what a segmenter says of one image, indexed together."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylabel.masks.rle import Rle, mask_areas
from raylabel.predictions.context import image_context


@dataclass(frozen=True, kw_only=True)
class Instances:
    """Predicted objects of one image, all fields indexed together.

    Attributes:
        image_size_hw: height and width of the image in pixels.
        boxes_xyxy: (N, 4) float32, pixels.
        masks: N compressed RLEs of the image's size.
        class_indices: (N,) int32, 0-based: the predicted class, the arg max of the soft vector without background.
        raw_scores: (N,) float32 in [0, 1]: the predicted class's probability before correction.
        soft_vectors: (N, num_classes + 1) float32, rows sum to 1, background last.
        mask_quality: (N,) float32 in [0, 1]: mean mask probability inside the mask, or as `label.mask_quality` says.
    """

    image_size_hw: tuple[int, int]
    boxes_xyxy: NDArray[np.float32]
    masks: tuple[Rle, ...]
    class_indices: NDArray[np.int32]
    raw_scores: NDArray[np.float32]
    soft_vectors: NDArray[np.float32]
    mask_quality: NDArray[np.float32]

    def __post_init__(self) -> None:
        num = len(self.masks)
        for field in fields(self):
            if field.name != "image_size_hw":
                assert len(getattr(self, field.name)) == num, f"{field.name} must have {num} rows"

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, rows: NDArray[Any] | Sequence[int] | slice) -> "Instances":
        """The chosen rows: an index array, a boolean mask or a slice."""
        chosen = np.arange(len(self))[rows]
        return Instances(
            image_size_hw=self.image_size_hw,
            boxes_xyxy=self.boxes_xyxy[chosen],
            masks=tuple(self.masks[row] for row in chosen),
            class_indices=self.class_indices[chosen],
            raw_scores=self.raw_scores[chosen],
            soft_vectors=self.soft_vectors[chosen],
            mask_quality=self.mask_quality[chosen],
        )

    @property
    def mask_areas(self) -> NDArray[np.int32]:
        """(N,) pixels of each mask."""
        return mask_areas(self.masks)

    @staticmethod
    def empty(image_size_hw: tuple[int, int], num_classes: int) -> "Instances":
        """No objects."""
        return Instances(
            image_size_hw=image_size_hw,
            boxes_xyxy=np.zeros((0, 4), np.float32),
            masks=(),
            class_indices=np.zeros(0, np.int32),
            raw_scores=np.zeros(0, np.float32),
            soft_vectors=np.zeros((0, num_classes + 1), np.float32),
            mask_quality=np.zeros(0, np.float32),
        )


def instances_context(instances: Instances) -> NDArray[np.float32]:
    """Context of all of an image's instances, (N, len(CONTEXT_FEATURES)) float32 (`context.image_context`)."""
    return image_context(
        instances.class_indices,
        instances.raw_scores,
        instances.masks,
        mask_quality=instances.mask_quality,
        soft_vectors=instances.soft_vectors,
    )
