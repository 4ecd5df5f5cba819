"""Predicted objects of one image with calibrated scores and class names: as results, and as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raylabel.dataset.image_source import ImageSource, read_source
from raylabel.masks.rle import Rle, decode_masks
from raylabel.predictions.context import soft_vector_features
from raylabel.predictions.drawing import draw_masks
from raylabel.predictions.instances import Instances
from raylabel.predictions.result_entry import result_entry
from raylabel.run.classes import RunClasses


@dataclass(frozen=True, kw_only=True, repr=False)
class ScoredInstances(Instances):
    """Instances with calibrated scores, their classes, and the image that they were found in.

    Attributes:
        calibrated_scores: (N,) float32 in [0, 1]. Raw scores, if the model has no corrector.
        is_corrected: whether a corrector made them.
        classes: the model's classes.
        image: pixels, (H, W, 3) uint8 RGB, or the place to read them from again.
        max_pixels: see `read_image`.
    """

    of_image: ClassVar[frozenset[str]] = Instances.of_image | {"is_corrected", "classes", "image", "max_pixels"}

    calibrated_scores: NDArray[np.float32]
    is_corrected: bool
    classes: RunClasses
    image: NDArray[np.uint8] | ImageSource
    max_pixels: int

    @property
    def class_names(self) -> list[str]:
        """Name of each object's class."""
        return [self.classes.names[index] for index in self.class_indices]

    def to_coco(self, image_id: int | str = 0) -> list[dict[str, Any]]:
        """Return the objects as entries of a COCO results file; see `result_entry`."""
        features = {
            "mask_quality": self.mask_quality,
            **soft_vector_features(self.class_indices, self.soft_vectors),
        }
        return [
            result_entry(
                image_id=image_id,
                category_id=int(self.classes.category_ids[self.class_indices[row]]),
                mask=self.masks[row],
                box_xyxy=self.boxes_xyxy[row].tolist(),
                scores=(float(self.calibrated_scores[row]), float(self.raw_scores[row])),
                features={name: float(values[row]) for name, values in features.items()},
                is_corrected=self.is_corrected,
            )
            for row in range(len(self))
        ]

    def draw(self) -> Image.Image:
        """Draw the masks over the image, each with the name of its class and its score.

        Raises:
            ImageError: the image's file can't be read any more.
            StorageError: the disk or the network failed.
        """
        if isinstance(self.image, ImageSource):
            pixels_HW3 = read_source(self.image, max_pixels=self.max_pixels)
        else:
            pixels_HW3 = self.image
        return draw_scored(pixels_HW3, self.masks, self.class_names, self.calibrated_scores)


def draw_scored(
    pixels_HW3: NDArray[np.uint8],
    masks: Sequence[Rle],
    names: Sequence[str],
    scores: NDArray[np.floating],
    *,
    long_side: int | None = None,
) -> Image.Image:
    """Draw masks over an image with names and scores, the highest score on top. See `draw_masks` for `long_side`."""
    order = np.argsort(scores, kind="stable")
    texts = [f"{names[row]} {scores[row]:.2f}" for row in order]
    masks_NHW = decode_masks([masks[row] for row in order], pixels_HW3.shape[:2])
    return draw_masks(pixels_HW3, masks_NHW, texts, long_side=long_side)
