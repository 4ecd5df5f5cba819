"""A segmenter that finds coloured rectangles, and images of them. Its every mistake is one of the data's path."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from torch import Tensor

from fakes import FakeSegmenter
from raylabel.masks.rle import Rle, encode_masks, mask_boxes
from raylabel.predictions.instances import Instances

COLOURS = ((220, 40, 40), (40, 200, 60))
"""Colour of each class."""

LONG, SHORT = 24, 16


class ColourFinder(FakeSegmenter):
    """A segmenter that finds the pixels of each class's colour, one object per class."""

    def predict(self, images: list[Tensor], *, score_threshold: float, max_per_image: int) -> list[Instances]:
        return [self._coloured(image) for image in images]

    def _coloured(self, image: Tensor) -> Instances:
        pixels = (image.permute(1, 2, 0).cpu().numpy() * 255).round()
        masks = np.stack([(pixels == colour).all(axis=2) for colour in COLOURS])
        classes = np.flatnonzero(masks.any(axis=(1, 2))).astype(np.int32)
        encoded, num = encode_masks(masks[classes]), len(classes)
        soft = np.zeros((num, self.num_classes + 1), np.float32)
        soft[np.arange(num), classes], soft[:, -1] = 0.9, 0.1
        return Instances(
            image_size_hw=(pixels.shape[0], pixels.shape[1]),
            boxes_xyxy=mask_boxes(encoded),
            masks=tuple(encoded),
            class_indices=classes,
            raw_scores=np.full(num, 0.9, np.float32),
            soft_vectors=soft,
            mask_quality=np.ones(num, np.float32),
        )


@dataclass(frozen=True)
class Photograph:
    """An image with two rectangles.

    Attributes:
        name: its file name; the suffix says the format.
        orientation: its EXIF orientation, 1 to 8.
        is_square: whether its sides have one length.
        as_stored: whether it is annotated as stored. Otherwise it is annotated as displayed.
    """

    name: str
    orientation: int
    is_square: bool
    as_stored: bool

    def write(self, folder: Path) -> None:
        """Write the image. Its pixels are lossless."""
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = self.orientation
        Image.fromarray(self._stored()).save(folder / self.name, exif=exif)

    def annotated(self) -> NDArray[np.uint8]:
        """Return the pixels in the orientation of the annotations."""
        return self._stored() if self.as_stored else displayed(self._stored(), self.orientation)

    def _stored(self) -> NDArray[np.uint8]:
        pixels = np.zeros((SHORT, SHORT if self.is_square else LONG, 3), np.uint8)
        pixels[1:5, 2:12], pixels[8:10, 1:4] = COLOURS
        return pixels


def displayed(pixels_HW3: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn stored pixels as viewers do (TIFF 6.0, page 36)."""
    turned = pixels_HW3.transpose(1, 0, 2) if orientation >= 5 else pixels_HW3
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return turned[::rows, ::columns]


def coco(photographs: Iterable[Photograph]) -> dict[str, Any]:
    """Return the annotations of photographs."""
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for number, one in enumerate(photographs, start=1):
        pixels = one.annotated()
        height, width = pixels.shape[:2]
        images.append({"id": number, "file_name": one.name, "height": height, "width": width})
        for index, rle in enumerate(encode_masks(np.stack([(pixels == each).all(axis=2) for each in COLOURS]))):
            segmentation = {"size": [height, width], "counts": rle["counts"].decode()}
            annotations.append({"image_id": number, "category_id": index + 1, "segmentation": segmentation})
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}]
    for number, one_annotation in enumerate(annotations, start=1):
        one_annotation["id"] = number
    return {"images": images, "annotations": annotations, "categories": categories}


def write_set(folder: Path, name: str, photographs: Iterable[Photograph]) -> None:
    """Write images into `images/` and their annotations."""
    photographs = list(photographs)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for one in photographs:
        one.write(folder / "images")
    (folder / name).write_text(json.dumps(coco(photographs)))


def fits(pixels_HW3: NDArray[np.uint8], masks: Iterable[tuple[int, Rle]]) -> bool:
    """Tell whether masks of classes are the pixels of the classes' colours."""
    return all(
        rle["counts"] == encode_masks((pixels_HW3 == COLOURS[index]).all(axis=2)[None])[0]["counts"]
        for index, rle in masks
    )
