"""Instances: the predictions of a segmenter for one image, indexed together."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from raylabel.masks.rle import Rle, mask_areas
from raylabel.predictions.context import image_context


@dataclass(frozen=True, kw_only=True, repr=False)
class Instances:
    """Predicted objects of one image, all fields indexed together.

    Attributes:
        image_size_hw: height and width of the image in pixels.
        boxes_xyxy: (N, 4) float32 in pixels.
        masks: N compressed RLEs of the image's size.
        class_indices: (N,) int32, 0-based predicted classes: the arg max of the soft vector without background.
        raw_scores: (N,) float32 in [0, 1], the predicted class's probability before correction.
        soft_vectors: (N, num_classes + 1) float32. Rows sum to 1; background is last.
        mask_quality: (N,) float32 in [0, 1]: mean mask probability inside the mask, or agreement, as
            `label.mask_quality` says.

    Examples:
        >>> import numpy as np
        >>> import raylabel as rl
        >>> masks = np.zeros((2, 4, 6), dtype=bool)
        >>> masks[0, 1:3, 2:5] = masks[1, 0, 0] = True
        >>> encoded = rl.encode_masks(masks)
        >>> found = rl.Instances(
        ...     image_size_hw=(4, 6),
        ...     boxes_xyxy=rl.mask_boxes(encoded),
        ...     masks=tuple(encoded),
        ...     class_indices=np.array([1, 0], dtype=np.int32),
        ...     raw_scores=np.array([0.75, 0.5], dtype=np.float32),
        ...     soft_vectors=np.array([[0.0, 0.75, 0.25], [0.5, 0.25, 0.25]], dtype=np.float32),
        ...     mask_quality=np.array([1.0, 0.5], dtype=np.float32),
        ... )
        >>> found.mask_areas.tolist()
        [6, 1]
        >>> found[found.raw_scores > 0.6].class_indices.tolist()
        [1]
    """

    of_image: ClassVar[frozenset[str]] = frozenset({"image_size_hw"})
    """Names of the fields that belong to the whole image, not to each object."""

    image_size_hw: tuple[int, int]
    boxes_xyxy: NDArray[np.float32]
    masks: tuple[Rle, ...]
    class_indices: NDArray[np.int32]
    raw_scores: NDArray[np.float32]
    soft_vectors: NDArray[np.float32]
    mask_quality: NDArray[np.float32]

    def __repr__(self) -> str:
        height, width = self.image_size_hw
        return f"{type(self).__name__}({len(self)} objects in {width} x {height} pixels)"

    def __post_init__(self) -> None:
        num = len(self.masks)
        for name in self._of_objects():
            assert len(getattr(self, name)) == num, f"{name} must have {num} rows"

    def _of_objects(self) -> list[str]:
        return [field.name for field in fields(self) if field.name not in self.of_image]

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, rows: NDArray[Any] | Sequence[int] | slice) -> Self:
        """Choose rows with an index array, a boolean mask or a slice."""
        chosen = np.arange(len(self))[rows]
        columns = {name: getattr(self, name)[chosen] for name in self._of_objects() if name != "masks"}
        return replace(self, masks=tuple(self.masks[row] for row in chosen), **columns)

    @property
    def mask_areas(self) -> NDArray[np.int32]:
        """Number of pixels of each mask, (N,)."""
        return mask_areas(self.masks)

    @staticmethod
    def empty(image_size_hw: tuple[int, int], num_classes: int) -> "Instances":
        """Make the Instances of an image without objects."""
        return Instances(
            image_size_hw=image_size_hw,
            boxes_xyxy=np.zeros((0, 4), np.float32),
            masks=(),
            class_indices=np.zeros(0, np.int32),
            raw_scores=np.zeros(0, np.float32),
            soft_vectors=np.zeros((0, num_classes + 1), np.float32),
            mask_quality=np.zeros(0, np.float32),
        )


def instances_context(instances: Instances, *, min_score: float = 0.0) -> NDArray[np.float32]:
    """Compute the context of all instances of an image, (N, len(CONTEXT_FEATURES)) float32; see `image_context`."""
    return image_context(
        instances.class_indices,
        instances.raw_scores,
        instances.masks,
        mask_quality=instances.mask_quality,
        soft_vectors=instances.soft_vectors,
        min_score=min_score,
    )
