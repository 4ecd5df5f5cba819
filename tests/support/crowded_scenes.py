"""Annotations and detections of small images, with what makes an evaluation hard."""

from typing import Any

import numpy as np

from raylabel.masks.rle import encode_masks, mask_areas

SIDE, NUM_CLASSES = 64, 6


def scenes(*, is_federated: bool, num_images: int = 30, num_detections: int = 350) -> tuple[dict[str, Any], list[Any]]:
    """Images with crowds, ties of scores, objects of all sizes, and more detections than LVIS's protocol takes."""
    rng = np.random.default_rng(0)
    images, annotations, detections = [], [], []
    for image_id in range(1, num_images + 1):
        images.append({"id": image_id, "height": SIDE, "width": SIDE})
        classes = rng.integers(1, NUM_CLASSES + 1, 5)
        if is_federated:
            images[-1] |= {
                "neg_category_ids": rng.integers(1, NUM_CLASSES + 1, 2).tolist(),
                "not_exhaustive_category_ids": classes[: image_id % 2].tolist(),
            }
        objects = [shape(rng) for _ in classes]
        for place, category in enumerate(classes.tolist()):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image_id, "category_id": category}
                | {"segmentation": objects[place], "iscrowd": int(not is_federated and rng.random() < 0.1)}
                | {"area": area(objects[place])}
            )
        for _ in range(0 if image_id == 3 else num_detections):
            place = int(rng.integers(len(classes)))
            detections.append(
                {"image_id": image_id, "category_id": int(classes[place] if rng.random() < 0.5 else 1 + place)}
                | {"score": round(float(rng.random()), 1)}
                | {"segmentation": objects[place] if rng.random() < 0.3 else shape(rng)}
                | ({"bbox": [1.0, 2.0, float(rng.integers(5, 90)), 20.0]} if rng.random() < 0.3 else {})
            )
    categories = [
        {"id": one, "name": str(one)} | ({"frequency": "rcf"[one % 3]} if is_federated else {})
        for one in range(1, NUM_CLASSES + 1)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}, detections


def shape(rng: np.random.Generator) -> dict[str, Any]:
    mask = np.zeros((1, SIDE, SIDE), dtype=bool)
    (top, left), (height, width) = rng.integers(0, 50, 2), rng.integers(4, 60, 2)
    mask[0, top : top + height, left : left + width] = True
    [rle] = encode_masks(mask)
    return {"size": [SIDE, SIDE], "counts": rle["counts"].decode()}


def area(mask: dict[str, Any]) -> float:
    return float(mask_areas([mask | {"counts": mask["counts"].encode()}])[0])  # type: ignore[list-item]
