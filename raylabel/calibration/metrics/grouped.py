"""All figures per group of detections: by class frequency, by size or by class."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raylabel.calibration.bins import ReliabilityBins
from raylabel.calibration.detections import Detections
from raylabel.calibration.metrics.binned import (
    ace,
    brier,
    ccece,
    class_bias,
    ece,
    group_masks,
    mce,
    mean_bias,
    nll,
    rmsce,
)
from raylabel.calibration.metrics.equal_mass import adaptive_ece
from raylabel.calibration.metrics.location_errors import d_ece
from raylabel.calibration.metrics.ranking import pooled_average_precision, yield_at_precision
from raylabel.calibration.metrics.rows import check_length
from raylabel.dataset.frequency import FrequencyGroup

GroupBy = Literal["frequency", "size", "class"]
Figures = dict[str, float | int | None]

SIZE_EDGES = {"small": 0.0, "medium": 32.0**2, "large": 96.0**2}
"""Size -> smallest mask area in pixels, as in COCO."""


def size_groups(mask_areas: ArrayLike) -> NDArray[np.str_]:
    """Return COCO's size of each mask area in pixels, (N,): small < 32^2 <= medium < 96^2 <= large.

    Raises:
        ValueError: an area is negative or not finite.
    """
    return np.array(list(SIZE_EDGES))[_size_indices(mask_areas)]


def figures_by_group(
    detections: Detections,
    *,
    group_by: GroupBy,
    scores: NDArray[np.floating] | None = None,
    num_bins: int = 15,
    frequency_groups: NDArray[np.str_] | None = None,
    mask_areas: ArrayLike | None = None,
    class_names: Sequence[str] | None = None,
    object_classes: ArrayLike | None = None,
    features: NDArray[np.floating] | None = None,
    min_count: float = 1,
    precision: float = 0.8,
) -> dict[str, Figures]:
    """Compute all figures of each group as plain numbers. An unavailable figure is None, never NaN.

    Counts of a group: `num_detections`, `num_images` and `num_classes` of the scored detections, `num_effective`
    (Kish's, of their weights), `num_correct`, `num_ignored` (in no other count), `num_objects`.

    Figures with the classes of the group pooled: `mean_score`, `accuracy`, `bias` (their difference), `ece`,
    `ece_debiased`, `adaptive_ece`, `ace`, `mce`, `rmsce`, `rmsce_debiased`, `nll`, `brier`, `d_ece`, `ap_pool`,
    `yield_recall` and `yield_threshold`. Figures in which each class counts the same: `ccece`, `ccece_debiased` and
    `mean_class_bias`.

    Args:
        detections: detections with known outcomes.
        group_by: "frequency": those of "r", "c" and "f" that have a class. "size": "small", "medium" and "large", see
            `size_groups`. "class": each class. The first two start with the group "all".
        scores: (N,) confidences to judge, such as calibrated scores. None: the raw scores.
        num_bins: number of bins of the scores.
        frequency_groups: (num_classes,) "r", "c" or "f". Needed to group by frequency.
        mask_areas: (N,) areas in pixels, to group by size. None: `detections.mask_areas`.
        class_names: (num_classes,) unique names of the groups. None: the class indices.
        object_classes: (M,) class of each true object (not crowd). Needed for `ap_pool` and `yield_*`. These are None
            for a size, because a detection and its object can differ in size, so that recall is undefined.
        features: (N, K) features in [0, 1]. Needed for `d_ece`.
        min_count: classes with fewer (weighted) detections are left out of the means over classes.
        precision: precision of the yield.

    Returns:
        Figures by group. A group with objects but no detection has an `ap_pool` and a `yield_recall` of 0.

    Raises:
        ValueError: an argument that the grouping needs is missing, shapes do not match, or outcomes are unknown.
    """
    confidences = detections.raw_scores if scores is None else np.asarray(scores, dtype=np.float64)
    check_length(confidences, "scores", len(detections))
    places = None if features is None else np.asarray(features)
    if places is not None and (places.ndim != 2 or len(places) != len(detections)):
        raise ValueError(f"features must have shape ({len(detections)}, K), got {places.shape}")
    objects = None if object_classes is None else np.asarray(object_classes, dtype=np.int64)
    if objects is not None and objects.size and not 0 <= objects.min() <= objects.max() < detections.num_classes:
        raise ValueError(f"object_classes must be in 0 to {detections.num_classes - 1}")
    names, group_of_detection, group_of_class = _groups(
        detections,
        group_by,
        frequency_groups=frequency_groups,
        mask_areas=mask_areas,
        class_names=class_names,
    )

    def figures(rows: NDArray[np.int64] | slice, num_objects: int | None) -> Figures:
        return _figures(
            detections.subset(rows),
            confidences[rows],
            None if places is None else places[rows],
            num_objects=num_objects,
            num_bins=num_bins,
            min_count=min_count,
            precision=precision,
        )

    table = {} if group_by == "class" else {"all": figures(slice(None), None if objects is None else len(objects))}
    num_objects = None
    if objects is not None and group_of_class is not None:
        num_objects = np.bincount(group_of_class[objects], minlength=len(names))
    for group, rows in _rows_of_groups(group_of_detection, len(names)):
        table[names[group]] = figures(rows, None if num_objects is None else int(num_objects[group]))
    return table


def _groups(
    detections: Detections,
    group_by: GroupBy,
    *,
    frequency_groups: NDArray[np.str_] | None,
    mask_areas: ArrayLike | None,
    class_names: Sequence[str] | None,
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64] | None]:
    """Return the group names, the group of each detection, and the group of each class (None if grouped by size)."""
    num_classes = detections.num_classes
    if group_by == "size":
        mask_areas = detections.mask_areas if mask_areas is None else mask_areas
        if mask_areas is None:
            raise ValueError("mask_areas must be given to group by size")
        areas = np.asarray(mask_areas, dtype=np.float64)
        check_length(areas, "mask_areas", len(detections))
        return list(SIZE_EDGES), _size_indices(areas), None
    if group_by == "frequency":
        if frequency_groups is None:
            raise ValueError("frequency_groups must be given to group by frequency")
        letters = np.asarray(frequency_groups)
        if letters.shape != (num_classes,):
            raise ValueError(f"frequency_groups must have shape {(num_classes,)}, got {letters.shape}")
        if not np.isin(letters, list(FrequencyGroup)).all():
            raise ValueError(f"frequency_groups must be r, c or f, got {', '.join(sorted(set(letters.tolist())))}")
        masks: Mapping[str, NDArray[np.bool_]] = {k: v for k, v in group_masks(letters).items() if k != "all"}
        group_of_class = np.select(list(masks.values()), list(range(len(masks)))).astype(np.int64)
        return list(masks), group_of_class[detections.class_indices], group_of_class
    if group_by == "class":
        names = [str(index) for index in range(num_classes)] if class_names is None else list(class_names)
        if len(names) != num_classes or len(set(names)) != num_classes:
            raise ValueError(f"class_names must be {num_classes} different names, got {len(names)}")
        return names, detections.class_indices.astype(np.int64), np.arange(num_classes)
    raise ValueError(f"group_by must be frequency, size or class, got {group_by!r}")


def _size_indices(mask_areas: ArrayLike) -> NDArray[np.int64]:
    areas = np.asarray(mask_areas, dtype=np.float64)
    if not (np.isfinite(areas) & (areas >= 0)).all():
        raise ValueError("mask_areas must be finite and >= 0")
    return np.searchsorted(list(SIZE_EDGES.values()), areas, side="right") - 1


def _rows_of_groups(group_of_row: NDArray[np.int64], num_groups: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each group with its rows in order. One sort serves all groups."""
    keys = group_of_row.astype(np.uint16) if num_groups < 2**16 else group_of_row
    order = np.argsort(keys, kind="stable")
    ends = np.concatenate([[0], np.cumsum(np.bincount(group_of_row, minlength=num_groups))])
    for group in range(num_groups):
        yield group, order[ends[group] : ends[group + 1]]


def _figures(
    detections: Detections,
    confidences: NDArray[np.float64],
    features: NDArray[np.floating] | None,
    *,
    num_objects: int | None,
    num_bins: int,
    min_count: float,
    precision: float,
) -> Figures:
    rows = detections.is_scored
    judged, scores = detections.subset(rows), confidences[rows]
    weights, is_correct = judged.weights, judged.is_correct
    counts: Figures = {
        "num_detections": len(judged),
        "num_effective": float(weights.sum() ** 2 / (weights**2).sum()) if weights.any() else 0.0,
        "num_correct": int(is_correct.sum()),
        "num_ignored": int((~rows).sum()),
        "num_images": len(np.unique(judged.image_indices)),
        "num_classes": len(np.unique(judged.class_indices)),
        "num_objects": num_objects,
    }
    cells_error = None
    if features is not None and weights.any():
        cells_error = d_ece(scores, is_correct, features[rows], weights=weights)
    return (
        counts
        | _calibration_figures(judged, scores, num_bins, min_count)
        | {"d_ece": cells_error}
        | _ranking_figures(scores, is_correct, weights, num_objects, precision)
    )


_CALIBRATION_FIGURES = (
    *("mean_score", "accuracy", "bias", "ece", "ece_debiased", "adaptive_ece", "ace", "mce", "rmsce", "rmsce_debiased"),
    *("ccece", "ccece_debiased", "mean_class_bias", "nll", "brier"),
)


def _calibration_figures(judged: Detections, scores: NDArray[np.float64], num_bins: int, min_count: float) -> Figures:
    if not judged.weights.any():
        return dict.fromkeys(_CALIBRATION_FIGURES)
    bins = ReliabilityBins.from_detections(judged, num_bins, scores)
    pooled = bins.pooled()
    weight = float(pooled.num.sum())
    per_class: Figures = dict.fromkeys(("ccece", "ccece_debiased", "mean_class_bias"))
    if (bins.num.sum(axis=1) >= max(min_count, np.finfo(float).tiny)).any():
        per_class = {
            "ccece": ccece(bins, min_count=min_count),
            "ccece_debiased": ccece(bins, min_count=min_count, debiased=True),
            "mean_class_bias": mean_bias(bins, min_count=min_count),
        }
    figures: Figures = {
        "mean_score": float(pooled.sum_confidence.sum() / weight),
        "accuracy": float(pooled.num_correct.sum() / weight),
        "bias": float(class_bias(pooled)[0]),
        "ece": ece(pooled),
        "ece_debiased": ece(pooled, debiased=True),
        "adaptive_ece": adaptive_ece(judged, num_bins, scores),
        "ace": ace(pooled),
        "mce": mce(pooled),
        "rmsce": rmsce(pooled),
        "rmsce_debiased": rmsce(pooled, debiased=True),
        "nll": nll(scores, judged.is_correct, judged.weights),
        "brier": brier(scores, judged.is_correct, judged.weights),
    }
    return {name: (figures | per_class)[name] for name in _CALIBRATION_FIGURES}


def _ranking_figures(
    scores: NDArray[np.float64],
    is_correct: NDArray[np.bool_],
    weights: NDArray[np.float64],
    num_objects: int | None,
    precision: float,
) -> Figures:
    if not num_objects:
        return dict.fromkeys(("ap_pool", "yield_recall", "yield_threshold"))
    kept = yield_at_precision(scores, is_correct, num_objects, precision=precision, weights=weights)
    return {
        "ap_pool": pooled_average_precision(scores, is_correct, num_objects, weights=weights),
        "yield_recall": kept.recall,
        "yield_threshold": kept.threshold,
    }
