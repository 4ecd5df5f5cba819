"""From images to what a network sees: resizing, normalisation, batches; the mode that it runs in."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from raylabel.models.segmenter import Target

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
LONG_TO_SHORT_SIDE = 5 / 3
_Result = TypeVar("_Result")


class ResizeAndNormalise(GeneralizedRCNNTransform):
    """torchvision's transform; `min_size` None keeps the images' sizes.

    Args:
        min_size: length of the short side in pixels.
        max_size: of the long one at most; 5/3 of the short one where it is None.
        size_divisible: the batch is padded to a multiple of it.
        mean, std: per channel, of pixels in [0, 1].
    """

    def __init__(
        self,
        min_size: int | None,
        *,
        size_divisible: int,
        max_size: int | None = None,
        mean: tuple[float, ...] = IMAGE_MEAN,
        std: tuple[float, ...] = IMAGE_STD,
    ) -> None:
        longest = max_size or round((min_size or 0) * LONG_TO_SHORT_SIDE)
        super().__init__(min_size or 0, longest, list(mean), list(std), size_divisible=size_divisible)
        self._keeps_size = min_size is None

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """As of torchvision, but that it may keep the size."""
        return (image, target) if self._keeps_size else super().resize(image, target)


def by_size(images: list[Tensor], fn: Callable[[list[int]], Sequence[_Result]]) -> list[_Result]:
    """Call a function once per image size and return its results in the order of the images.

    Images of different sizes are never batched: padding would change what norms see of the smaller ones.

    Args:
        images: (3, H, W) each.
        fn: takes rows of images of one size, and returns one result per row.
    """
    groups: dict[torch.Size, list[int]] = {}
    for row, image in enumerate(images):
        groups.setdefault(image.shape, []).append(row)
    results: dict[int, _Result] = {}
    for rows in groups.values():
        results |= dict(zip(rows, fn(rows), strict=True))
    return [results[row] for row in range(len(images))]


def target_dict(target: Target) -> dict[str, Tensor]:
    """As torchvision's transform wants it."""
    return {
        "boxes": target.boxes_xyxy,
        "masks": target.masks_NHW.to(torch.uint8),
        "class_probs": target.class_probs,
        "weights": target.weights,
        "location_weights": target.location_weights,
        "class_mask": target.class_mask,
    }


@contextmanager
def in_mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Put a module into a mode for a while: torchvision's parts do different things in each."""
    before = module.training
    if before != training:
        module.train(training)
    try:
        yield
    finally:
        if before != training:
            module.train(before)
