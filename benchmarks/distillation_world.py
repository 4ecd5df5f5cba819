"""A generated world for the distillation benchmark: few labelled images with a long tail, and a less skewed pool."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from raylabel.dataset.annotated_set import Category, ImageRecord
from raylabel.dataset.annotations import AnnotatedSet
from raylabel.dataset.synthetic.classes import synthetic_classes
from raylabel.dataset.synthetic.frequencies import draw_classes
from raylabel.dataset.synthetic.scenes import draw_scene
from raylabel.masks.rle import encode_masks, mask_boxes

NUM_CLASSES = 24
IMAGE_SIZE = 128
LABELLED_ZIPF, POOL_ZIPF = 1.5, 0.4
MIN_IMAGES_A_CLASS = 2


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images in memory with all their objects.

    Attributes:
        images: (N, 3, H, W) uint8.
        annotated: annotations of the same images, in the same order.
    """

    images: NDArray[np.uint8]
    annotated: AnnotatedSet

    def __len__(self) -> int:
        return len(self.annotated)

    def tensor(self, row: int) -> torch.Tensor:
        """Return an image, (3, H, W) float32 in [0, 1]."""
        return torch.from_numpy(self.images[row].astype(np.float32)) / 255

    def rows(self, rows: NDArray[np.integer]) -> "Split":
        """Return the split of the given rows."""
        return Split(
            images=self.images[rows],
            annotated=AnnotatedSet(
                images=tuple(self.annotated.images[row] for row in rows),
                categories=self.annotated.categories,
                annotations=tuple(self.annotated.annotations[row] for row in rows),
                is_federated=False,
            ),
        )

    def __add__(self, other: "Split") -> "Split":
        both = self.annotated, other.annotated
        return Split(
            images=np.concatenate([self.images, other.images]),
            annotated=AnnotatedSet(
                images=both[0].images + both[1].images,
                categories=both[0].categories,
                annotations=both[0].annotations + both[1].annotations,
                is_federated=False,
            ),
        )


World = dict[str, Split]
"""Splits by name."""


def generate_world(
    seed: int, *, num_labelled: int = 120, num_calibration: int = 120, num_pool: int = 3000, num_test: int = 400
) -> World:
    """Generate fully annotated splits.

    Classes follow Zipf 1.5 in `labelled` and Zipf 0.4 in `calibration` and `pool`. They are equally frequent in `test`.
    The order of classes by frequency is the same in all splits. No split depends on the size of another.
    """
    ranks = np.random.default_rng([seed, 0]).permutation(NUM_CLASSES)
    plan = {
        "labelled": (num_labelled, LABELLED_ZIPF, MIN_IMAGES_A_CLASS),
        "calibration": (num_calibration, POOL_ZIPF, 1),
        "pool": (num_pool, POOL_ZIPF, 1),
        "test": (num_test, 0.0, 1),
    }
    return {
        name: _draw(seed, number, name, num_images, _weights(ranks, exponent), min_images)
        for number, (name, (num_images, exponent, min_images)) in enumerate(plan.items(), start=1)
    }


def _weights(ranks: NDArray[np.int64], exponent: float) -> NDArray[np.float64]:
    weights = (ranks + 1.0) ** -exponent
    return weights / weights.sum()


def _draw(seed: int, number: int, name: str, num_images: int, weights: NDArray[np.float64], min_images: int) -> Split:
    classes = synthetic_classes(NUM_CLASSES)
    images, records, annotations = [], [], []
    chosen = draw_classes(num_images, weights, min_images, np.random.default_rng([seed, number]))
    for row, class_indices in enumerate(chosen):
        scene_rng = np.random.default_rng([seed, number, row])
        image_HW3, masks_NHW = draw_scene([classes[one] for one in class_indices], IMAGE_SIZE, scene_rng)
        images.append(image_HW3.transpose(2, 0, 1))
        image_id = f"{name}-{row}"
        records.append(
            ImageRecord(image_id=image_id, file_name=image_id, uri=image_id, height=IMAGE_SIZE, width=IMAGE_SIZE)
        )
        masks = encode_masks(masks_NHW)
        annotations.append(
            tuple(
                {
                    "id": 1000 * row + place + 1,
                    "image_id": image_id,
                    "category_id": class_index + 1,
                    "segmentation": {"size": list(mask["size"]), "counts": mask["counts"]},
                    "area": int(area),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "iscrowd": 0,
                }
                for place, (class_index, mask, area, (x0, y0, x1, y1)) in enumerate(
                    zip(class_indices, masks, masks_NHW.sum(axis=(1, 2)), mask_boxes(masks).tolist(), strict=True)
                )
            )
        )
    return Split(
        images=np.stack(images),
        annotated=AnnotatedSet(
            images=tuple(records),
            categories=tuple(Category(category_id=index + 1, name=one.name) for index, one in enumerate(classes)),
            annotations=tuple(annotations),
            is_federated=False,
        ),
    )
