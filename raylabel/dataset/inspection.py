"""What can be learnt from an annotated set: exporters write files that are well formed and mean nothing."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylabel.dataset.annotated_set import AnnotatedSet
from raylabel.masks.rle import mask_areas, mask_boxes
from raylabel.masks.segmentation import rle_from_segmentation

MIN_BOX_SIDE = 1.0
"""Pixels. Objects with a narrower or lower box are not learnt."""

_SLACK = 1.5
"""Pixels by which a side of a box may differ from its mask's, because files round boxes and masks differently."""

_LEAST_OVERLAP = 0.5
"""A box with a smaller IoU with its mask's bounds is another object's, or of another form or scale."""

_SURE_SIDE = 3.0
"""A polygon that is wider and higher than this, and not thin, covers a pixel."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """Counts over the annotations of a set.

    Attributes:
        num_annotations: all annotations.
        num_learnable: annotations that are learnt. Crowd regions, empty masks and boxes of less than a pixel are not.
        num_crowd: crowd regions.
        num_empty: objects whose mask covers no pixel.
        num_normalised: objects with all coordinates in 0..1, in an image of more than 2 pixels.
        num_other_box: objects whose box is not their mask's.
        num_outside: objects with a box or polygon that leaves the image by more than a pixel.
        lost_classes: names of the classes whose annotations are all not learnt.
    """

    num_annotations: int
    num_learnable: int
    num_crowd: int
    num_empty: int
    num_normalised: int
    num_other_box: int
    num_outside: int
    lost_classes: tuple[str, ...]

    def remarks(self) -> list[str]:
        """Return a line for each kind of annotation that hardly anyone wants, with numbers."""
        counts = {
            "are crowd regions, which are not learnt": self.num_crowd,
            "have an empty mask, and are not learnt": self.num_empty,
            "have coordinates in 0..1 in place of pixels": self.num_normalised,
            "have a box that is not their mask's (bbox is x, y, width, height in pixels)": self.num_other_box,
            "have a box or polygon that leaves the image": self.num_outside,
        }
        lines = [f"{num:,} of {self.num_annotations:,} annotations {what}" for what, num in counts.items() if num]
        if self.lost_classes:
            shown = ", ".join(self.lost_classes[:5]) + (", ..." if len(self.lost_classes) > 5 else "")
            lines.append(f"{len(self.lost_classes):,} classes have annotations, and none is learnt: {shown}")
        return lines


def inspect_annotations(annotated: AnnotatedSet) -> Inspection:
    """Count what the annotations of a set mean. Images are not opened."""
    totals = dict.fromkeys(("annotations", "learnable", "crowd", "empty", "normalised", "other_box", "outside"), 0)
    num_of_class = np.zeros(annotated.num_classes, dtype=np.int64)
    num_learnt_of_class = np.zeros(annotated.num_classes, dtype=np.int64)
    for row in range(len(annotated)):
        if not len(annotated.object_classes(row)):
            continue
        found = _Objects.of(annotated, row)
        learnable = found.is_learnable
        classes = annotated.object_classes(row)
        np.add.at(num_of_class, classes, 1)
        np.add.at(num_learnt_of_class, classes[learnable], 1)
        is_object = ~found.is_crowd
        totals["annotations"] += len(classes)
        totals["learnable"] += int(learnable.sum())
        totals["crowd"] += int(found.is_crowd.sum())
        for name, holds in (
            ("empty", found.is_empty),
            ("normalised", found.is_normalised),
            ("other_box", found.has_other_box),
            ("outside", found.is_outside),
        ):
            totals[name] += int((holds & is_object).sum())
    return Inspection(
        num_annotations=totals["annotations"],
        num_learnable=totals["learnable"],
        num_crowd=totals["crowd"],
        num_empty=totals["empty"],
        num_normalised=totals["normalised"],
        num_other_box=totals["other_box"],
        num_outside=totals["outside"],
        lost_classes=tuple(
            annotated.class_names[index] for index in np.flatnonzero((num_of_class > 0) & (num_learnt_of_class == 0))
        ),
    )


def are_learnable(
    boxes_xyxy: NDArray[np.float32], is_empty: NDArray[np.bool_], image_size_hw: tuple[int, int]
) -> NDArray[np.bool_]:
    """Tell which objects of an image are learnt: those with a mask, and with a box of a pixel or more in the image.

    Args:
        boxes_xyxy: (N, 4) boxes in pixels.
        is_empty: (N,) whether the mask covers no pixel.
        image_size_hw: height and width of the image.
    """
    height, width = image_size_hw
    boxes = boxes_xyxy.clip(0, np.array([width, height, width, height], np.float32)).reshape(-1, 4)
    learnable: NDArray[np.bool_] = (boxes[:, 2:] - boxes[:, :2] >= MIN_BOX_SIDE).all(axis=1) & ~is_empty
    return learnable


@dataclass(frozen=True)
class _Objects:
    """The annotations of an image: bounds of masks, boxes, and what is known about each."""

    image_size_hw: tuple[int, int]
    is_crowd: NDArray[np.bool_]
    bounds_xyxy: NDArray[np.float64]
    is_empty: NDArray[np.bool_]
    boxes_xyxy: NDArray[np.float64]

    @staticmethod
    def of(annotated: AnnotatedSet, row: int) -> "_Objects":
        annotations, size_hw = annotated.annotations[row], annotated.images[row].image_size_hw
        bounds, is_empty = np.zeros((len(annotations), 4)), np.ones(len(annotations), dtype=bool)
        polygons = [
            (index, polygon)
            for index, one in enumerate(annotations)
            if isinstance(one["segmentation"], list)
            for polygon in one["segmentation"]
        ]
        if polygons:
            of_polygon = _Polygons.of([polygon for _, polygon in polygons])
            owners = np.array([index for index, _ in polygons])
            starts = np.flatnonzero(np.diff(owners, prepend=-1))
            with_polygons = owners[starts]
            bounds[with_polygons, :2] = np.minimum.reduceat(of_polygon.low, starts)
            bounds[with_polygons, 2:] = np.maximum.reduceat(of_polygon.high, starts)
            is_empty[with_polygons] = ~np.logical_or.reduceat(of_polygon.surely_cover(size_hw), starts)
        for index in np.flatnonzero(is_empty).tolist():  # RLEs, and polygons that only drawing tells about
            mask = rle_from_segmentation(annotations[index]["segmentation"], size_hw, check=False)
            is_empty[index] = mask_areas([mask])[0] == 0
            if not isinstance(annotations[index]["segmentation"], list):
                bounds[index] = mask_boxes([mask])[0]
        boxes = bounds.copy()
        for index, one in enumerate(annotations):
            if one.get("bbox") is not None:
                x, y, width, height = one["bbox"]
                boxes[index] = x, y, x + width, y + height
        return _Objects(size_hw, annotated.object_is_crowd(row), bounds, is_empty, boxes)

    @property
    def is_learnable(self) -> NDArray[np.bool_]:
        boxes = self.boxes_xyxy.astype(np.float32)
        return ~self.is_crowd & are_learnable(boxes, self.is_empty, self.image_size_hw)

    @property
    def is_normalised(self) -> NDArray[np.bool_]:
        corners = np.stack([self.boxes_xyxy, self.bounds_xyxy])
        is_inside = np.all((corners >= 0) & (corners <= 1), axis=2)
        is_small = np.any(is_inside & np.any(corners > 0, axis=2), axis=0)  # an empty RLE has bounds of zeros
        return is_small if max(self.image_size_hw) > 2 else np.zeros_like(is_small)

    @property
    def has_other_box(self) -> NDArray[np.bool_]:
        height, width = self.image_size_hw
        bounds = self.bounds_xyxy.clip(0, [width, height, width, height])
        low, high = np.maximum(self.boxes_xyxy[:, :2], bounds[:, :2]), np.minimum(self.boxes_xyxy[:, 2:], bounds[:, 2:])
        shared = (high - low).clip(0).prod(axis=1)
        union = sum((one[:, 2:] - one[:, :2]).clip(0).prod(axis=1) for one in (self.boxes_xyxy, bounds)) - shared
        is_close = (np.abs(self.boxes_xyxy - bounds) <= _SLACK).all(axis=1)
        is_other: NDArray[np.bool_] = ~self.is_empty & ~is_close & (shared < _LEAST_OVERLAP * union)
        return is_other

    @property
    def is_outside(self) -> NDArray[np.bool_]:
        height, width = self.image_size_hw
        low = np.minimum(self.boxes_xyxy[:, :2], self.bounds_xyxy[:, :2])
        high = np.maximum(self.boxes_xyxy[:, 2:], self.bounds_xyxy[:, 2:])
        return np.any(low < -1, axis=1) | np.any(high > np.array([width + 1, height + 1]), axis=1)


@dataclass(frozen=True)
class _Polygons:
    """P polygons: lowest and highest points, (P, 2), area and perimeter, (P,)."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    area: NDArray[np.float64]
    perimeter: NDArray[np.float64]

    @staticmethod
    def of(polygons: list[list[float]]) -> "_Polygons":
        # One array for all, because NumPy's calls cost more than the sums of so few points.
        points = np.array([value for polygon in polygons for value in polygon], dtype=np.float64).reshape(-1, 2)
        lengths = np.array([len(polygon) // 2 for polygon in polygons])
        ends = lengths.cumsum()
        starts = ends - lengths
        following = np.arange(1, len(points) + 1)
        following[ends - 1] = starts
        to_next = points[following] - points
        cross = points[:, 0] * to_next[:, 1] - points[:, 1] * to_next[:, 0]
        return _Polygons(
            np.minimum.reduceat(points, starts),
            np.maximum.reduceat(points, starts),
            np.abs(np.add.reduceat(cross, starts)) / 2,
            np.add.reduceat(np.hypot(*to_next.T), starts),
        )

    def surely_cover(self, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
        """Tell which polygons cover a pixel of the image for sure. Of the others, only drawing would tell."""
        is_within = np.all(self.low >= 0, axis=1) & np.all(self.high <= np.array(size_hw[::-1]), axis=1)
        is_large = np.all(self.high - self.low >= _SURE_SIDE, axis=1)
        return is_within & is_large & (self.area > self.perimeter)  # the mean width is then two pixels
