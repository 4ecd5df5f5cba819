"""COCO's `segmentation` of an annotation or a detection: polygons, uncompressed RLE or compressed RLE.

The one check of it. pycocotools and hotcoco read memory outside the mask, or take all memory of the machine, if they
are given what `checked_segmentation` and `first_bad_runs` refuse.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from raylabel.errors import shown
from raylabel.masks.rle import Rle, check_rle, first_bad_rle

MAX_PIXELS = 2**31
"""Height times width of an image is below this number."""

MAX_COORDINATE = 4e8
"""Largest distance from the origin in pixels. Rasterising works with five times as much in 32 bits."""

# In image sides. Polygons may leave the image a little, but rasterising distant points would take unbounded memory.
_MAX_OUTSIDE = 10
_ANY_SIDE = int(MAX_COORDINATE)
# In pixels. Rasterising takes about 100 bytes per pixel of an outline.
_MAX_OUTLINE = 10**7


def checked_segmentation(segmentation: Any, image_size_hw: tuple[int, int]) -> Any:
    """Check a segmentation and return it, with integers for the size of an RLE.

    It does not check the runs of a compressed RLE, because `first_bad_runs` checks many masks far faster than one.

    Args:
        segmentation: list of polygons `[x0, y0, x1, y1, ...]`, or a dict with `size` and `counts`.
        image_size_hw: size of the image. An RLE must have the same size; whole numbers may be floats.

    Raises:
        ValueError: there is no polygon; a polygon has fewer than 3 points, a value that is not finite, or lies far
            outside its image. An RLE has another size or bad counts. The value is neither polygons nor RLE.
    """
    if isinstance(segmentation, list):
        _check_polygons(segmentation, image_size_hw)
        return segmentation
    if not isinstance(segmentation, dict):
        raise ValueError(f"segmentation must be polygons or RLE, got {type(segmentation).__name__}")
    size_hw = list(image_size_hw)
    if _listed(segmentation.get("size")) != size_hw:
        raise ValueError(f"RLE size must be {size_hw} like its image, got {shown(segmentation.get('size'))}")
    counts, num_pixels = segmentation.get("counts"), size_hw[0] * size_hw[1]
    if isinstance(counts, list):
        if not {int}.issuperset(map(type, counts)) or min(counts, default=0) < 0 or sum(counts) != num_pixels:
            raise ValueError(f"RLE counts must be runs >= 0 that sum to {num_pixels}")
    elif isinstance(counts, str):
        if not counts.isascii():
            raise ValueError("RLE counts must be bytes from 48 to 111, got text that is not ASCII")
    elif not isinstance(counts, bytes):
        raise ValueError(f"RLE counts must be a list or a string, got {type(counts).__name__}")
    if [type(side) for side in segmentation["size"]] == [int, int]:
        return segmentation
    return {"size": size_hw, "counts": counts}


class Claim(NamedTuple):
    """What a segmentation demands of its image.

    Attributes:
        segmentation: the segmentation, see `checked_segmentation`.
        size_hw: the size that an RLE states. (0, 0) for polygons, which fit an image of any size.
        reach: largest absolute coordinate of polygons in pixels. 0 for an RLE.
    """

    segmentation: Any
    size_hw: tuple[int, int]
    reach: float


def claim_of(segmentation: Any) -> Claim | None:
    """Check a segmentation whose image is not known yet. None if `checked_segmentation` refuses it for every image."""
    try:
        if isinstance(segmentation, list):
            _check_polygons(segmentation, (_ANY_SIDE, 1))
            far = max(max(max(polygon), -min(polygon)) for polygon in segmentation)
            return Claim(segmentation, (0, 0), float(far))
        size_hw = rle_size(segmentation)
        return None if size_hw is None else Claim(checked_segmentation(segmentation, size_hw), size_hw, 0.0)
    except ValueError:
        return None


def claims_fit(
    claimed_hw: NDArray[np.integer], reaches: NDArray[np.float64], image_sizes_hw: NDArray[np.integer]
) -> NDArray[np.bool_]:
    """Tell for which images `checked_segmentation` accepts a segmentation. All arrays have a row per segmentation."""
    has_size = (claimed_hw == 0).all(axis=1) | (claimed_hw == image_sizes_hw).all(axis=1)
    is_near: NDArray[np.bool_] = reaches <= np.minimum(_MAX_OUTSIDE * image_sizes_hw.max(axis=1), MAX_COORDINATE)
    return has_size & is_near


def rle_size(segmentation: Any) -> tuple[int, int] | None:
    """Return the height and width that an RLE states, None if it is no RLE of a possible image."""
    size = _listed(segmentation.get("size")) if isinstance(segmentation, dict) else None
    if size is None or len(size) != 2 or not all(is_whole(side) and side > 0 for side in size):
        return None
    height, width = map(int, size)
    return (height, width) if height * width < MAX_PIXELS else None


def first_bad_runs(segmentations: Sequence[Any]) -> tuple[int, str] | None:
    """Find the first checked segmentation whose compressed runs do not fill its mask: its place and the reason."""
    places, rles = list[int](), list[Rle]()
    for place, one in enumerate(segmentations):
        if isinstance(one, dict) and not isinstance(one["counts"], list):
            places.append(place)
            rles.append(Rle(size=one["size"], counts=_encoded(one["counts"])))
    bad = first_bad_rle(rles)
    return bad and (places[bad[0]], bad[1])


def rle_from_segmentation(segmentation: Any, image_size_hw: tuple[int, int], *, check: bool = True) -> Rle:
    """Convert a segmentation to compressed RLE.

    Args:
        segmentation: see `checked_segmentation`.
        image_size_hw: size of the image. If an RLE is checked already, its own size counts.
        check: False if `checked_segmentation` and `first_bad_runs` have already checked it.

    Raises:
        ValueError: see `checked_segmentation`. Or the runs of a compressed RLE do not fill its mask.
    """
    if check:
        segmentation = checked_segmentation(segmentation, image_size_hw)
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, *image_size_hw))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, *segmentation["size"])
    rle = Rle(size=segmentation["size"], counts=_encoded(segmentation["counts"]))
    if check:
        check_rle(rle)
    return rle


def are_finite(values: Any, length: int) -> bool:
    """Tell whether `values` is a list of `length` finite numbers. One sum reveals any NaN or infinity in it."""
    if not isinstance(values, list) or len(values) != length or bool in map(type, values):
        return False
    try:
        return math.isfinite(math.fsum(values))
    except (TypeError, OverflowError, ValueError):
        return False


def is_whole(value: Any) -> bool:
    """Tell whether a value is a whole number. Tables of floats write whole numbers as 7.0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0


def _check_polygons(polygons: list[Any], image_size_hw: tuple[int, int]) -> None:
    if not polygons:
        raise ValueError("segmentation has no polygon")
    limit = min(_MAX_OUTSIDE * max(image_size_hw), MAX_COORDINATE)
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            length = len(polygon) if isinstance(polygon, list) else 0
            raise ValueError(f"a polygon must have at least 3 points (6 numbers), got {length} numbers")
        if not are_finite(polygon, len(polygon)):
            raise ValueError("a polygon has a value that is not a finite number")
        highest, lowest = max(polygon), min(polygon)
        if highest > limit or lowest < -limit:
            raise ValueError(f"a polygon lies far outside its image of {image_size_hw} pixels")
        # A bound first, because it is cheap and holds for nearly all polygons.
        if (highest - lowest) * len(polygon) > _MAX_OUTLINE and _outline_pixels(polygon) > _MAX_OUTLINE:
            raise ValueError(f"a polygon's outline must be at most {_MAX_OUTLINE} pixels long")


def _outline_pixels(polygon: list[float]) -> float:
    points_P2 = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
    return float(np.abs(np.roll(points_P2, 1, axis=0) - points_P2).max(axis=1).sum())


def _listed(size: Any) -> list[Any] | None:
    return list(size) if isinstance(size, list | tuple) else None


def _encoded(counts: str | bytes) -> bytes:
    return counts.encode() if isinstance(counts, str) else counts
