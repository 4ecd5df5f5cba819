"""Training examples: images with their targets."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raylabel.dataset.annotations import AnnotatedSet
from raylabel.dataset.image_source import ImageSource, read_source
from raylabel.dataset.images import ImageError
from raylabel.dataset.inspection import are_learnable
from raylabel.errors import InputError
from raylabel.masks.rle import Rle, decode_masks, mask_areas
from raylabel.models.segmenter import Target
from raylabel.training.augment.copy_paste import RareDonors, paste_objects
from raylabel.training.augment.views import Augment, weak_augmentation
from raylabel.training.federated import FederatedClasses


class Examples(Protocol):
    """Images with targets, read by index.

    Attributes:
        num_classes: number of foreground classes.
    """

    num_classes: int

    def __len__(self) -> int: ...

    def image_classes(self) -> list[NDArray[np.int32]]:
        """Return the class indices per image, for repeat-factor sampling."""
        ...

    def image_id(self, index: int) -> str:
        """Return the name of an image in messages."""
        ...

    def load(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Target]:
        """Read an image, (3, H, W) float32 in [0, 1], and its target, both augmented.

        Raises:
            InputError: the image cannot be read. The message names it.
        """
        ...


class ExampleStream(Protocol):
    """An endless sequence of training images. The n-th image depends only on n."""

    def load(self, draw: int, rng: np.random.Generator) -> tuple[Tensor, Target]:
        """Read the image of a draw and its target. See `Examples.load`."""
        ...

    def image_id(self, draw: int) -> str:
        """Return the name of the image of a draw in messages."""
        ...


class LabelledExamples:
    """The images of an annotated set. Crowd regions, empty masks and objects smaller than a pixel are left out.

    Args:
        annotated: images and annotations.
        class_targets: (num_classes, num_classes + 1), one soft target per class. See `smoothing.soft_targets`.
        max_pixels: largest image to read; larger images raise InputError.
        augment: augmentation of images and targets; weak by default.
        copy_paste: chance that the rare objects of another image, augmented too, are pasted in.
        repeat_threshold: threshold of repeat-factor sampling; it defines the rare classes.
        federated: draws the classes of each image's class loss; None uses every class.
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
        """See `Examples`."""
        return self.annotated.annotated_class_lists.split()

    def image_id(self, index: int) -> str:
        """See `Examples`."""
        return str(self.annotated.images[index].image_id)

    def load(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Target]:
        """See `Examples`."""
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
        """Read an image and its objects, or only the objects of the wanted classes."""
        truth = self.annotated.ground_truth(index)
        image = image_tensor(self.annotated.images[index].source, max_pixels=self._max_pixels)
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


def image_tensor(source: ImageSource, *, max_pixels: int) -> Tensor:
    """Read an image as a tensor for a model, (3, H, W) float32 in [0, 1].

    Raises:
        InputError: the image cannot be read, or does not have the size of its labels. The message names it.
    """
    try:
        pixels_HWC = read_source(source, max_pixels=max_pixels)
    except ImageError as error:
        raise InputError(f"{source.uri}: can't be read for training: {error}") from error
    return torch.from_numpy(pixels_HWC).permute(2, 0, 1).float() / 255


def target_of(
    image_size_hw: tuple[int, int],
    boxes_xyxy: NDArray[np.float32],
    masks: Sequence[Rle],
    class_probs: NDArray[np.floating],
    weights: NDArray[np.float32],
    location_weights: NDArray[np.float32] | None = None,
) -> Target:
    """Build the target of an image.

    Boxes are clipped to the image. Objects whose box is narrower or lower than a pixel are left out, because boxes
    without width or height would make infinite regression targets. So are those with an empty mask, because a mask head
    would learn from them that nothing is there.
    """
    height, width = image_size_hw
    boxes = boxes_xyxy.clip(0, np.array([width, height, width, height], np.float32)).reshape(-1, 4)
    is_empty = mask_areas(masks) == 0
    rows = np.flatnonzero(are_learnable(boxes, is_empty, image_size_hw)).tolist()
    return Target(
        boxes_xyxy=torch.from_numpy(boxes[rows].astype(np.float32)),
        masks_NHW=torch.from_numpy(decode_masks([masks[row] for row in rows], image_size_hw)),
        class_probs=torch.from_numpy(class_probs[rows].astype(np.float32)),
        weights=torch.from_numpy(weights[rows].astype(np.float32)),
        location_weights=(
            torch.ones(len(rows)) if location_weights is None else torch.from_numpy(location_weights[rows])
        ),
    )
