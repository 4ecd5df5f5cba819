"""Match rows: what average precision needs of each image, without its masks. They merge in any order.

hotcoco's `StreamingEval` holds them, about 50 bytes per detection. Merged match rows give the figures of one evaluation
of all images, to the last bit.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hotcoco import COCOeval, StreamingEval
from numpy.typing import NDArray

from raylabel.dataset.frequency import FrequencyGroup
from raylabel.evaluation.checked_input import IouType
from raylabel.masks.rle import mask_areas
from raylabel.masks.segmentation import rle_from_segmentation

LVIS_MAX_DETECTIONS = 300
"""Detections per image, over all categories, that LVIS's protocol evaluates."""

Figures = dict[str, float | None]

_GROUP_METRICS = {group: f"AP{group}" for group in FrequencyGroup}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How detections are evaluated.

    Attributes:
        categories: categories with numbers as ids, in hotcoco's form.
        iou_type: "segm" or "bbox".
        is_federated: whether LVIS's protocol applies, not COCO's.
        frequency_groups: category number -> "r", "c" or "f", for COCO data; see `evaluate_results`.
    """

    categories: Sequence[Mapping[str, Any]]
    iou_type: IouType
    is_federated: bool
    frequency_groups: Mapping[int, str] | None


def match_rows(
    protocol: Protocol,
    images: Sequence[dict[str, Any]],
    annotations: Sequence[dict[str, Any]],
    detections: Sequence[dict[str, Any]],
) -> bytes:
    """Match the detections of some images.

    Args:
        protocol: how to match.
        images: images with numbers as ids, in hotcoco's form.
        annotations: their ground truth, with `area`.
        detections: their detections, in the order of the results. All detections of an image must be there.

    Returns:
        Match rows, for `figures`.

    Raises:
        ValueError: hotcoco refuses the data.
    """
    evaluator = StreamingEval([dict(one) for one in protocol.categories], protocol.iou_type, protocol.is_federated)
    sizes_hw = {one["id"]: (one["height"], one["width"]) for one in images}
    chosen = _best(detections) if protocol.is_federated else list(detections)
    evaluator.update(list(images), list(annotations), [_with_box(one, sizes_hw) for one in chosen])
    return evaluator.to_bytes()


class MergedRows:
    """Match rows of groups of images, merged as they come.

    The bytes of match rows state all categories: 120 kB for 1,203 categories, however few the images.
    """

    def __init__(self) -> None:
        self._groups: dict[int, StreamingEval] = {}

    def add(self, group: int, content: bytes) -> None:
        """Add match rows of further images of a group."""
        rows = StreamingEval.from_bytes(content)
        before = self._groups.get(group)
        self._groups[group] = rows if before is None else StreamingEval.merge([before, rows])

    def of(self, groups: Iterable[int]) -> list[StreamingEval]:
        """Return the match rows of each of these groups that has images."""
        return [self._groups[group] for group in groups if group in self._groups]


def figures(protocol: Protocol, rows: Sequence[StreamingEval]) -> Figures:
    """Compute the figures that `evaluate_results` returns, from match rows of different images."""
    evaluation = StreamingEval.merge(rows).finalize()
    evaluation.accumulate()
    evaluation.summary_lines()  # because summarize() would also print the figures
    found = evaluation.get_results()
    metrics = {name: _figure(found[name]) for name in evaluation.metric_keys()}
    if protocol.frequency_groups is not None and not protocol.is_federated:
        metrics |= _group_precision(evaluation, protocol.frequency_groups)
    return metrics


def _best(detections: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep the LVIS_MAX_DETECTIONS best detections of each image, in their order. The first of equal scores win."""
    images = np.array([one["image_id"] for one in detections], dtype=np.int64)
    scores = np.array([one["score"] for one in detections], dtype=np.float64)
    order = np.lexsort((-scores, images))
    is_first = np.diff(images[order], prepend=-1) != 0
    starts = np.flatnonzero(is_first)[np.cumsum(is_first) - 1] if len(order) else order
    kept = np.sort(order[np.arange(len(order)) - starts < LVIS_MAX_DETECTIONS])
    return [detections[row] for row in kept.tolist()]


def _with_box(detection: dict[str, Any], sizes_hw: Mapping[int, tuple[int, int]]) -> dict[str, Any]:
    """Give a detection without a box one of its mask's area, because the box tells hotcoco the size."""
    if "bbox" in detection:
        return detection
    mask = rle_from_segmentation(detection["segmentation"], sizes_hw[detection["image_id"]], check=False)
    return detection | {"bbox": [0.0, 0.0, float(mask_areas([mask])[0]), 1.0]}


def _figure(value: float) -> float | None:
    return None if value < 0 or np.isnan(value) else float(value)


def _group_precision(evaluation: COCOeval, frequency_groups: Mapping[int, str]) -> Figures:
    assert evaluation.eval is not None
    precision_TRKAM: NDArray[np.float64] = np.asarray(evaluation.eval["precision"])  # IoU, recall, class, area, number
    per_class = precision_TRKAM[:, :, :, 0, -1].mean(axis=(0, 1))
    letters = np.array([frequency_groups.get(category_id, "") for category_id in evaluation.params.cat_ids])
    chosen = {name: per_class[(letters == letter) & (per_class >= 0)] for letter, name in _GROUP_METRICS.items()}
    return {name: float(values.mean()) if len(values) else None for name, values in chosen.items()}
