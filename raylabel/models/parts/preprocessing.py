"""From images to batches: resizing, normalisation, grouping by size, train and eval mode."""

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
    """torchvision's transform, except that it can keep the sizes of images.

    Args:
        min_size: length of the short side in pixels; None keeps the sizes.
        max_size: limit on the long side in pixels; None means 5/3 of `min_size`.
        size_divisible: batches are padded to multiples of this number.
        mean, std: mean and standard deviation per channel, of pixels in [0, 1].
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
        """Resize as torchvision does, unless sizes are kept."""
        return (image, target) if self._keeps_size else super().resize(image, target)


def by_size(images: list[Tensor], fn: Callable[[list[int]], Sequence[_Result]]) -> list[_Result]:
    """Call a function once per image size and return its results in the order of the images.

    Images of different sizes never share a batch, because padding would change what norms see of smaller images.

    Args:
        images: (3, H, W) each.
        fn: takes the rows of all images of one size and returns one result per row.
    """
    groups: dict[torch.Size, list[int]] = {}
    for row, image in enumerate(images):
        groups.setdefault(image.shape, []).append(row)
    results: dict[int, _Result] = {}
    for rows in groups.values():
        results |= dict(zip(rows, fn(rows), strict=True))
    return [results[row] for row in range(len(images))]


def target_dict(target: Target) -> dict[str, Tensor]:
    """Convert a target to the dict that torchvision's transform takes."""
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
    """Hold a module in train or eval mode inside the block, because torchvision's parts depend on the mode."""
    before = module.training
    if before != training:
        module.train(training)
    try:
        yield
    finally:
        if before != training:
            module.train(before)
