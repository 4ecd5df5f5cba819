"""Detections made from LVIS ground truth."""

from typing import Any

import numpy as np

from raylabel.masks.rle import decode_masks, encode_masks
from raylabel.masks.segmentation import rle_from_segmentation


def lvis_detections(truth: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Make detections from the truth: shifted masks, confused classes, duplicates, false alarms and random scores."""
    rng = np.random.default_rng(seed)
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    negatives = {image["id"]: image["neg_category_ids"] for image in truth["images"]}
    rows = []
    for one in truth["annotations"]:
        if rng.random() < 0.15:
            continue
        image_id, size = one["image_id"], sizes[one["image_id"]]
        mask = decode_masks([rle_from_segmentation(one["segmentation"], size)], size)[0]
        shifted = np.roll(mask, rng.integers(-3, 4, 2), axis=(0, 1))
        category_ids = [one["category_id"]] * int(rng.integers(1, 3))
        if rng.random() < 0.4 and negatives[image_id]:
            category_ids.append(int(rng.choice(negatives[image_id])))
        if rng.random() < 0.2:
            category_ids.append(int(rng.integers(1, 1200)))  # mostly neither annotated nor verified to be absent
        rle = encode_masks(shifted[None])[0]
        for category_id in category_ids:
            segmentation = {"size": list(size), "counts": rle["counts"].decode()}
            score = round(float(rng.random()), 3)
            rows.append(
                {"image_id": image_id, "category_id": category_id, "score": score, "segmentation": segmentation}
            )
    return rows
