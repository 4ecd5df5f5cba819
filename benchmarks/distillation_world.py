"""Generated worlds of the distillation benchmark, as files: few long-tailed labelled images, and a flatter pool."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raylabel.config import DataConfig
from raylabel.dataset.synthetic.classes import synthetic_classes
from raylabel.dataset.synthetic.frequencies import draw_classes
from raylabel.dataset.synthetic.scenes import draw_scene
from raylabel.masks.rle import encode_masks, mask_boxes

NUM_CLASSES = 24
LABELLED_ZIPF, POOL_ZIPF = 1.5, 0.4
MIN_IMAGES_A_CLASS = 2

Kind = Literal["mixed", "alike"]
"""How the labelled images are drawn. `alike`: all with classes by Zipf 1.5. `mixed`: half of them by Zipf 1.5, the
other half like the pool (Zipf 0.4)."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a world and its trainings are.

    Attributes:
        image_size: side of the images in pixels.
        num_pool: pool images.
        num_validation: validation images.
        warmup_steps: the first steps of the teacher, before prototypes are made. They count as the teacher's.
        teacher_steps: steps of the teacher, 8 images each.
        student_steps: steps of the student, 16 images each (8 labelled, 8 of the pool).
    """

    image_size: int
    num_pool: int
    num_validation: int
    warmup_steps: int
    teacher_steps: int
    student_steps: int


SIZES = {
    "demo": Size(
        image_size=64, num_pool=1120, num_validation=400, warmup_steps=0, teacher_steps=1200, student_steps=500
    ),
    "full": Size(
        image_size=128, num_pool=3000, num_validation=400, warmup_steps=1000, teacher_steps=2500, student_steps=600
    ),
}
"""`demo` has the images and the steps of `raylabel demo`. `full` takes four times as long."""


@dataclass(frozen=True, kw_only=True)
class World:
    """A generated world on disk.

    Classes follow Zipf 0.4 in the pool, and are equally frequent in the validation split. The order of classes by
    frequency is the same in all splits. Its thirds are the groups f, c and r, whatever the number of labelled images.
    Every image is annotated exhaustively.

    Attributes:
        folder: where its files are.
        kind: see `Kind`.
        seed: seed of every random choice.
        num_labelled: labelled images, calibration images included.
        size: see `Size`.
    """

    folder: Path
    kind: Kind
    seed: int
    num_labelled: int
    size: Size

    def data(self, num_calibration: int) -> DataConfig:
        """Return the data section of a run that keeps the last labelled images for calibration.

        With 0 there is no calibration split. Labelled images of `alike` are in random order, so the last ones are a
        random split. The last ones of `mixed` are drawn like the pool.
        """
        if num_calibration:
            everything = json.loads((self.folder / "labelled.json").read_text())
            cut = self.num_labelled - num_calibration
            for name, images in (("labelled", everything["images"][:cut]), ("calibration", everything["images"][cut:])):
                self._write(f"{name}-{num_calibration}.json", _part(everything, images))
        name = f"labelled-{num_calibration}.json" if num_calibration else "labelled.json"
        return DataConfig(
            labelled=str(self.folder / name),
            images=str(self.folder / "images"),
            calibration=str(self.folder / f"calibration-{num_calibration}.json") if num_calibration else None,
            validation=str(self.folder / "validation.json"),
            pool=str(self.folder / "pool"),
            pool_truth=str(self.folder / "pool_truth.json"),
        )

    def ensure(self) -> None:
        """Write the world's files, unless they are there."""
        if (self.folder / "pool_truth.json").exists():
            return
        ranks = self._ranks()
        flat, skewed = _weights(ranks, POOL_ZIPF), _weights(ranks, LABELLED_ZIPF)
        if self.kind == "mixed":
            num_skewed = self.num_labelled // 2
            labelled = [
                *self._draw(1, num_skewed, skewed, MIN_IMAGES_A_CLASS),
                *self._draw(2, self.num_labelled - num_skewed, flat, 1),
            ]
        else:
            labelled = self._draw(1, self.num_labelled, skewed, MIN_IMAGES_A_CLASS)
        self._write("labelled.json", self._commit("images", "labelled", labelled))
        validation = self._draw(4, self.size.num_validation, _weights(ranks, 0.0), 1)
        self._write("validation.json", self._commit("images", "validation", validation))
        pool = self._draw(3, self.size.num_pool, flat, 1)
        self._write("pool_truth.json", self._commit("pool", "pool", pool))

    def _ranks(self) -> NDArray[np.int64]:
        """Return the place of each class in the order by frequency; 0 is the most frequent."""
        return np.random.default_rng([self.seed, 0]).permutation(NUM_CLASSES)

    def _draw(
        self, number: int, num_images: int, weights: NDArray[np.float64], min_images: int
    ) -> list[tuple[list[int], NDArray[np.uint8], NDArray[np.bool_]]]:
        """Draw a part's images. No part depends on the size of another."""
        classes = synthetic_classes(NUM_CLASSES)
        chosen = draw_classes(num_images, weights, min_images, np.random.default_rng([self.seed, number]))
        return [
            (
                of_image,
                *draw_scene(
                    [classes[one] for one in of_image],
                    self.size.image_size,
                    np.random.default_rng([self.seed, number, row]),
                ),
            )
            for row, of_image in enumerate(chosen)
        ]

    def _commit(
        self, folder: str, name: str, drawn: Sequence[tuple[list[int], NDArray[np.uint8], NDArray[np.bool_]]]
    ) -> dict[str, Any]:
        """Write the images of a part, and return its annotations in COCO form."""
        (self.folder / folder).mkdir(parents=True, exist_ok=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for row, (class_indices, image_HW3, masks_NHW) in enumerate(drawn):
            file_name = f"{name}-{row}.jpg"
            buffer = io.BytesIO()
            Image.fromarray(image_HW3).save(buffer, "JPEG", quality=95, subsampling=0)
            (self.folder / folder / file_name).write_bytes(buffer.getvalue())
            height, width = image_HW3.shape[:2]
            images.append({"id": row + 1, "file_name": file_name, "height": height, "width": width})
            masks = encode_masks(masks_NHW)
            for class_index, mask, (x0, y0, x1, y1), area in zip(
                class_indices, masks, mask_boxes(masks).tolist(), masks_NHW.sum(axis=(1, 2)).tolist(), strict=True
            ):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": row + 1,
                        "category_id": class_index + 1,
                        "segmentation": {"size": list(mask["size"]), "counts": mask["counts"].decode()},
                        "area": area,
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "iscrowd": 0,
                    }
                )
        categories = [
            {"id": index + 1, "name": one.name, "frequency": "fcr"[3 * rank // NUM_CLASSES]}
            for index, (one, rank) in enumerate(zip(synthetic_classes(NUM_CLASSES), self._ranks(), strict=True))
        ]
        return {"images": images, "annotations": annotations, "categories": categories}

    def _write(self, name: str, content: dict[str, Any]) -> None:
        temporary = self.folder / f"{name}.tmp"
        temporary.write_text(json.dumps(content))
        temporary.rename(self.folder / name)


def _part(content: dict[str, Any], images: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the given images with their annotations."""
    ids = {one["id"] for one in images}
    annotations = [one for one in content["annotations"] if one["image_id"] in ids]
    return {"images": images, "annotations": annotations, "categories": content["categories"]}


def _weights(ranks: NDArray[np.int64], exponent: float) -> NDArray[np.float64]:
    weights = (ranks + 1.0) ** -exponent
    return weights / weights.sum()
