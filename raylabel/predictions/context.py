"""Context: features of a detection, beyond its class and score, that help to tell whether it is correct."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raylabel.masks.overlaps import Overlaps, find_overlaps
from raylabel.masks.rle import Rle, mask_boxes

CONTEXT_FEATURES = (
    "area_share",
    "box_fill",
    "box_width",
    "box_height",
    "center_x",
    "center_y",
    "raggedness",
    "rank",
    "num_higher_same",
    "image_top_score",
    "iou_higher_same",
    "iou_higher_other",
    "iou_lower_same",
    "iou_lower_other",
    "overlap_same",
    "overlap_other",
    "rival",
    "mask_quality",
    "background",
    "runner_up",
)
"""Columns of a context matrix, (N, F) float32, NaN where unknown.

*Same* and *other* are detections of the same image, of the same or of another class. *Higher* and *lower* refer to the
ranking by score.

- `area_share`: log of the mask's area over the image's area.
- `box_fill`: the mask's area over its box's area.
- `box_width`, `box_height`, `center_x`, `center_y`: the mask's box, as shares of the image's sides.
- `raggedness`: bytes of the mask's compressed RLE over the square root of the mask's area.
- `rank`: number of higher detections.
- `num_higher_same`: number of higher detections of the same class.
- `image_top_score`: highest score in the image.
- `iou_higher_same`, `iou_higher_other`, `iou_lower_same`, `iou_lower_other`: highest mask IoU with these detections.
- `overlap_same`, `overlap_other`: sum of mask IoU times score over these detections, higher and lower.
- `rival`: highest mask IoU times score among lower detections of other classes.
- `mask_quality`: mean mask probability inside the mask, or agreement.
- `background`: background entry of the soft vector.
- `runner_up`: second highest entry of the soft vector among the classes.

The last three are MODEL_FEATURES.
"""

MODEL_FEATURES = ("mask_quality", "background", "runner_up")
"""Context features that masks and scores do not tell. They are known for raylabel's models, and for results files with
these fields."""


def image_context(
    class_indices: NDArray[np.integer],
    scores: NDArray[np.floating],
    masks: Sequence[Rle],
    *,
    mask_quality: NDArray[np.floating] | None = None,
    soft_vectors: NDArray[np.floating] | None = None,
    min_score: float = 0.0,
) -> NDArray[np.float32]:
    """Compute the context of one image's detections.

    Pass all detections that the detector keeps, because they are each other's context.

    Args:
        class_indices: (N,) predicted classes.
        scores: (N,) raw scores. Equal scores rank in the given order.
        masks: N masks of the image's size.
        mask_quality: (N,) if known, see `Instances`.
        soft_vectors: (N, num_classes + 1) if known, background last.
        min_score: detections with a smaller score are no one's context. A corrector that was fitted to detections from
            a score on needs the context that they alone give.

    Returns:
        (N, len(CONTEXT_FEATURES)) float32.
    """
    num = len(class_indices)
    context = np.full((num, len(CONTEXT_FEATURES)), np.nan, dtype=np.float32)
    if num == 0:
        return context
    # Single precision, because stored scores have it: a stored table then gives the same ranks.
    stored = np.asarray(scores, dtype=np.float32).astype(np.float64)
    overlaps = find_overlaps(masks)
    columns: dict[str, NDArray[np.floating]] = {
        **_geometry(masks, overlaps.areas),
        **_ranking(class_indices, stored),
        **_neighbours(class_indices, stored, overlaps, is_context=stored >= np.float32(min_score)),
    }
    if mask_quality is not None:
        columns["mask_quality"] = mask_quality
    if soft_vectors is not None:
        columns |= soft_vector_features(class_indices, soft_vectors)
    for name, values in columns.items():
        context[:, CONTEXT_FEATURES.index(name)] = values
    return context


def soft_vector_features(
    class_indices: NDArray[np.integer], soft_vectors: NDArray[np.floating]
) -> dict[str, NDArray[np.floating]]:
    """Return the features `background` and, with more than one class, `runner_up`, each (N,).

    Args:
        class_indices: (N,) predicted classes.
        soft_vectors: (N, num_classes + 1), background last.
    """
    others = soft_vectors[:, :-1].copy()
    others[np.arange(len(others)), class_indices] = -np.inf
    runner_up = {"runner_up": others.max(axis=1)} if others.shape[1] > 1 else {}
    return {"background": soft_vectors[:, -1], **runner_up}


def _geometry(masks: Sequence[Rle], areas: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    height, width = masks[0]["size"]
    areas = np.maximum(areas, 1)
    x0, y0, x1, y1 = mask_boxes(masks).astype(np.float64).T
    return {
        "area_share": np.log(areas / (height * width)),
        "box_fill": areas / np.maximum((x1 - x0) * (y1 - y0), 1),
        "box_width": (x1 - x0) / width,
        "box_height": (y1 - y0) / height,
        "center_x": (x0 + x1) / 2 / width,
        "center_y": (y0 + y1) / 2 / height,
        "raggedness": np.array([len(mask["counts"]) for mask in masks]) / np.sqrt(areas),
    }


def _ranking(class_indices: NDArray[np.integer], scores: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    rank = _rank(scores)
    by_class = np.lexsort((rank, class_indices))
    starts = np.searchsorted(class_indices[by_class], class_indices)
    place = np.empty(len(scores), dtype=np.int64)
    place[by_class] = np.arange(len(scores))
    return {
        "rank": rank.astype(np.float64),
        "num_higher_same": (place - starts).astype(np.float64),
        "image_top_score": np.full(len(scores), scores.max()),
    }


def _rank(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    rank = np.empty(len(scores), dtype=np.int64)
    rank[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    return rank


def _neighbours(
    class_indices: NDArray[np.integer],
    scores: NDArray[np.float64],
    overlaps: Overlaps,
    *,
    is_context: NDArray[np.bool_],
) -> dict[str, NDArray[np.float64]]:
    num = len(scores)
    chosen = is_context[overlaps.others]
    ones, others, iou = overlaps.ones[chosen], overlaps.others[chosen], overlaps.iou[chosen]
    rank = _rank(scores)
    is_higher = rank[others] < rank[ones]
    is_same = class_indices[others] == class_indices[ones]
    weighted = iou * scores[others]

    def highest(chosen: NDArray[np.bool_], values: NDArray[np.float64]) -> NDArray[np.float64]:
        result = np.zeros(num)
        np.maximum.at(result, ones[chosen], values[chosen])
        return result

    def total(chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        sums = np.bincount(ones[chosen], weights=weighted[chosen], minlength=num)
        return sums.astype(np.float64, copy=False)

    return {
        "iou_higher_same": highest(is_higher & is_same, iou),
        "iou_higher_other": highest(is_higher & ~is_same, iou),
        "iou_lower_same": highest(~is_higher & is_same, iou),
        "iou_lower_other": highest(~is_higher & ~is_same, iou),
        "overlap_same": total(is_same),
        "overlap_other": total(~is_same),
        "rival": highest(~is_higher & ~is_same, weighted),
    }
