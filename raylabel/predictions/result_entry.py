"""One predicted object as an entry of a COCO results file."""

from collections.abc import Mapping, Sequence
from typing import Any

from raylabel.masks.rle import Rle


def result_entry(
    *,
    image_id: int | str,
    category_id: int,
    mask: Rle,
    box_xyxy: Sequence[float],
    scores: tuple[float, float],
    features: Mapping[str, float],
    is_corrected: bool,
) -> dict[str, Any]:
    """Return a predicted object as an entry of a COCO results file.

    Args:
        image_id: id of the image.
        category_id: id of the category.
        mask: the mask.
        box_xyxy: its box in pixels.
        scores: calibrated and raw score.
        features: fields MODEL_FEATURES; NaN stands for an unknown one.
        is_corrected: whether the entry has the calibrated score, and the raw one as `raw_score`. Otherwise it has the
            raw score alone, so that `raylabel correct` can correct it.
    """
    calibrated, raw = scores
    x0, y0, x1, y1 = box_xyxy
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "segmentation": {"size": list(mask["size"]), "counts": mask["counts"].decode()},
        **({"score": calibrated, "raw_score": raw} if is_corrected else {"score": raw}),
        # A soft vector of one class has no runner-up, and JSON has no NaN.
        **{name: value for name, value in features.items() if value == value},
    }
