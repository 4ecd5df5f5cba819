"""Predicted masks as the part of the image that they fill, and Instances made from them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylabel.masks.encode_boxes import encode_boxes
from raylabel.predictions.instances import Instances

MASK_THRESHOLD = 0.5


@dataclass(frozen=True, kw_only=True)
class MaskPart:
    """The part of an image that holds a mask.

    Attributes:
        is_mask: (h, w) bool.
        corner: row and column of the part's top left pixel in the image.
        quality: mean probability inside the mask.
    """

    is_mask: NDArray[np.bool_]
    corner: tuple[int, int]
    quality: float


def mask_part(probs: NDArray[np.float32], place: tuple[slice, slice]) -> MaskPart | None:
    """Threshold the (h, w) probabilities of these rows and columns of an image. None means an empty mask."""
    is_mask = probs >= MASK_THRESHOLD
    num_pixels = np.count_nonzero(is_mask)
    if not num_pixels:
        return None
    quality = float(probs.sum(where=is_mask)) / num_pixels
    return MaskPart(is_mask=is_mask, corner=(place[0].start, place[1].start), quality=quality)


def assemble_instances(
    parts: Sequence[MaskPart | None],
    boxes_xyxy: NDArray[np.float32],
    class_probs: NDArray[np.float32],
    image_size_hw: tuple[int, int],
) -> Instances:
    """Make Instances of the objects whose masks are not empty.

    Args:
        parts: masks of N objects by falling score.
        boxes_xyxy: (N, 4) in pixels.
        class_probs: (N, num_classes + 1), background last.
        image_size_hw: size of the image.
    """
    kept = [row for row, part in enumerate(parts) if part is not None]
    masks = [part for part in parts if part is not None]
    chosen = class_probs[kept].reshape(len(kept), class_probs.shape[1])
    return Instances(
        image_size_hw=image_size_hw,
        boxes_xyxy=boxes_xyxy[kept].reshape(-1, 4),
        masks=tuple(encode_boxes([part.is_mask for part in masks], [part.corner for part in masks], image_size_hw)),
        class_indices=chosen[:, :-1].argmax(axis=1).astype(np.int32),
        raw_scores=chosen[:, :-1].max(axis=1, initial=0.0),
        soft_vectors=chosen,
        mask_quality=np.array([part.quality for part in masks], np.float32),
    )
