"""Training examples: images with their targets; those of an annotated set."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raylabel.dataset.annotations import AnnotatedSet
from raylabel.dataset.images import ImageError, check_size, read_annotated_image
from raylabel.errors import InputError
from raylabel.masks.rle import Rle, decode_masks
from raylabel.models.segmenter import Target
from raylabel.training.augment.copy_paste import RareDonors, paste_objects
from raylabel.training.augment.views import Augment, weak_augmentation
from raylabel.training.federated import FederatedClasses

MIN_BOX_SIDE = 1.0


class Examples(Protocol):
    """Images with targets, by index.

    Attributes:
        num_classes: number of foreground classes.
    """

    num_classes: int

    def __len__(self) -> int: ...

    def image_classes(self) -> list[NDArray[np.int32]]:
        """Class indices that are in each image, for repeat-factor sampling."""
        ...

    def image_id(self, index: int) -> str:
        """What an image is called in messages."""
        ...

    def load(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Target]:
        """An image (3, H, W) float32 in [0, 1] and its target, augmented.

        Raises:
            InputError: the image can't be read; the message names it.
        """
        ...


class ExampleStream(Protocol):
    """An endless sequence of training images: what its n-th is depends on n alone."""

    def load(self, draw: int, rng: np.random.Generator) -> tuple[Tensor, Target]:
        """The image of a draw, and its target, as of Examples."""
        ...

    def image_id(self, draw: int) -> str:
        """What the image of a draw is called in messages."""
        ...


class LabelledExamples:
    """Annotated images. Crowd regions and objects smaller than a pixel are left out.

    Args:
        annotated: images and annotations.
        class_targets: (num_classes, num_classes + 1) soft target of each class, as of smoothing.soft_targets.
        max_pixels: larger images are refused.
        augment: weak by default.
        copy_paste: chance that the rare objects of another image are pasted in, augmented too.
        repeat_threshold: says what is rare.
        federated: draws the classes of each image's class loss; None takes all.
    """

    def __init__(
        self,
        annotated: AnnotatedSet,
        class_targets: NDArray[np.float32],
        *,
        max_pixels: int,
        augment: Augment = weak_augmentation,
        copy_paste: float = 0.0,
        repeat_threshold: float = 0.0,
        federated: FederatedClasses | None = None,
    ) -> None:
        shape = (annotated.num_classes, annotated.num_classes + 1)
        assert class_targets.shape == shape, f"class_targets must be {shape}, got {class_targets.shape}"
        self.num_classes = annotated.num_classes
        self.annotated = annotated
        self._class_targets = class_targets
        self._max_pixels = max_pixels
        self._augment = augment
        self._federated = federated
        self._copy_paste = copy_paste
        self._donors = RareDonors(self.image_classes(), self.num_classes, repeat_threshold) if copy_paste > 0 else None

    def __len__(self) -> int:
        return len(self.annotated.images)

    def image_classes(self) -> list[NDArray[np.int32]]:
        """See Examples."""
        return [self.annotated.annotated_classes(row) for row in range(len(self))]

    def image_id(self, index: int) -> str:
        """See Examples."""
        return str(self.annotated.images[index].image_id)

    def load(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Target]:
        """See Examples."""
        image, target = self._augment(*self._read(index), rng)
        if self._federated is not None:
            target = replace(target, class_mask=torch.from_numpy(self._federated.draw(index, rng)))
        if self._donors is not None and rng.random() < self._copy_paste:
            donor = self._donors.draw(rng)
            if donor is not None:
                rare = self._augment(*self._read(donor, self._donors.is_rare), rng)
                image, target = paste_objects(image, target, *rare, rng)
        return image, target

    def _read(self, index: int, is_wanted: NDArray[np.bool_] | None = None) -> tuple[Tensor, Target]:
        """An image and its objects, or those of the wanted classes alone."""
        truth = self.annotated.ground_truth(index)
        uri, size_hw = self.annotated.images[index].uri, truth.image_size_hw
        image = image_tensor(uri, size_hw, lambda: read_annotated_image(uri, size_hw, max_pixels=self._max_pixels))
        is_taken = ~truth.is_crowd if is_wanted is None else ~truth.is_crowd & is_wanted[truth.class_indices]
        rows = np.flatnonzero(is_taken)
        target = target_of(
            truth.image_size_hw,
            truth.boxes_xyxy[rows],
            [truth.masks[row] for row in rows],
            self._class_targets[truth.class_indices[rows]],
            np.ones(len(rows), np.float32),
        )
        return image, target


def image_tensor(uri: str, image_size_hw: tuple[int, int], read: Callable[[], NDArray[np.uint8]]) -> Tensor:
    """An image as a model wants it, (3, H, W) float32 in [0, 1].

    Raises:
        InputError: it can't be read, or is of another size than its labels; the message names it.
    """
    try:
        pixels_HWC = read()
        check_size(pixels_HWC, image_size_hw)
    except ImageError as error:
        raise InputError(f"{uri}: can't be read for training: {error}") from error
    return torch.from_numpy(pixels_HWC).permute(2, 0, 1).float() / 255


def target_of(
    image_size_hw: tuple[int, int],
    boxes_xyxy: NDArray[np.float32],
    masks: Sequence[Rle],
    class_probs: NDArray[np.floating],
    weights: NDArray[np.float32],
    location_weights: NDArray[np.float32] | None = None,
) -> Target:
    """A target; boxes are clipped to the image, and those of no width or height, which would make infinite regression
    targets, are left out."""
    height, width = image_size_hw
    boxes = boxes_xyxy.clip(0, np.array([width, height, width, height], np.float32)).reshape(-1, 4)
    rows = np.flatnonzero((boxes[:, 2:] - boxes[:, :2] >= MIN_BOX_SIDE).all(axis=1)).tolist()
    return Target(
        boxes_xyxy=torch.from_numpy(boxes[rows].astype(np.float32)),
        masks_NHW=torch.from_numpy(decode_masks([masks[row] for row in rows], image_size_hw)),
        class_probs=torch.from_numpy(class_probs[rows].astype(np.float32)),
        weights=torch.from_numpy(weights[rows].astype(np.float32)),
        location_weights=(
            torch.ones(len(rows)) if location_weights is None else torch.from_numpy(location_weights[rows])
        ),
    )
