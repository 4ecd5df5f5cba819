"""Tiles of large images: cutting, and one set of predictions from those of the tiles."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raylabel.config import TileConfig
from raylabel.dataset.images import ImageError
from raylabel.masks.decode_boxes import decode_boxes
from raylabel.masks.encode_boxes import encode_boxes
from raylabel.predictions.instances import Instances

MERGE_IOU = 0.5
"""Predictions of two tiles are one object if their IoU in the tiles' common part is at least this. Two predictions of
one image are duplicates from the same IoU on."""
MERGE_CONTAINED = 0.8
"""A prediction that its tile's border cuts is a part of another tile's if this share of it lies inside, in the common
part."""

_BORDER = 2
"""Pixels from its tile's border at which a mask counts as cut, because predicted masks may end a little before."""


def tile_corners(image_size_hw: tuple[int, int], tile: TileConfig) -> list[tuple[int, int]]:
    """Return top and left of each tile. All tiles have one size: the tile's, or the image's if that is smaller."""
    tops, lefts = (_starts(length, tile) for length in image_size_hw)
    return [(top, left) for top in tops for left in lefts]


def _starts(length: int, tile: TileConfig) -> list[int]:
    """Return the starts along one side, evenly spread, with at least the overlap between neighbours."""
    if length <= tile.size:
        return [0]
    stride = max(1, int(tile.size * (1 - tile.overlap)))
    num_tiles = -(-(length - tile.size) // stride) + 1
    return [round(place * (length - tile.size) / (num_tiles - 1)) for place in range(num_tiles)]


class TiledImages:
    """Cuts a stream of images into tiles, and puts the predictions of each image together again.

    Tiles are numbered over all images, so that a batch may have tiles of several images.

    Args:
        tile: size and overlap. None cuts nothing.
        max_per_image: most predictions per image.
    """

    def __init__(self, tile: TileConfig | None, *, max_per_image: int) -> None:
        self._tile, self._max_per_image = tile, max_per_image
        self._pending: dict[int, _Cut] = {}
        self._num_tiles = 0

    def cut(
        self, images: Iterable[tuple[int, NDArray[np.uint8] | ImageError]]
    ) -> Iterator[tuple[int, NDArray[np.uint8] | ImageError]]:
        """Yield the number and the pixels of each tile of (position, image). An error stays whole."""
        for position, image in images:
            corners = [(0, 0)]
            if self._tile and not isinstance(image, ImageError):
                corners = tile_corners((image.shape[0], image.shape[1]), self._tile)
            size_hw = (0, 0) if isinstance(image, ImageError) else (image.shape[0], image.shape[1])
            cut = _Cut(position, size_hw, corners, [None] * len(corners))
            for place, (top, left) in enumerate(corners):
                number = self._num_tiles
                self._num_tiles += 1
                cut.places[number] = place
                self._pending[number] = cut
                if isinstance(image, ImageError) or len(corners) == 1:
                    yield number, image
                else:
                    assert self._tile is not None
                    yield number, image[top : top + self._tile.size, left : left + self._tile.size]
            del image

    def add(self, number: int, found: Instances | ImageError) -> tuple[int, Instances | ImageError] | None:
        """Take the predictions of a tile. Return the position and the predictions of its image if it is the last.

        The error of one tile is the image's.
        """
        cut = self._pending.pop(number)
        cut.found[cut.places[number]] = found
        cut.num_found += 1
        if cut.num_found < len(cut.corners):
            return None
        errors = [one for one in cut.found if isinstance(one, ImageError)]
        if errors or len(cut.corners) == 1:
            whole = (errors or cut.found)[0]
            assert whole is not None
            return cut.position, whole
        found_of_tiles = [one for one in cut.found if isinstance(one, Instances)]
        return cut.position, merge_tiles(found_of_tiles, cut.corners, cut.size_hw, max_per_image=self._max_per_image)


class _Cut:
    """An image whose tiles are being predicted."""

    def __init__(
        self,
        position: int,
        size_hw: tuple[int, int],
        corners: list[tuple[int, int]],
        found: list[Instances | ImageError | None],
    ) -> None:
        self.position, self.size_hw, self.corners, self.found = position, size_hw, corners, found
        self.places: dict[int, int] = {}
        self.num_found = 0


def merge_tiles(
    found: Sequence[Instances],
    corners: Sequence[tuple[int, int]],
    image_size_hw: tuple[int, int],
    *,
    max_per_image: int,
) -> Instances:
    """Make the predictions of an image from those of its tiles.

    Two predictions of different tiles are one object if they agree in the tiles' common part: their IoU there is at
    least `MERGE_IOU`, or one is cut by its tile's border and lies by `MERGE_CONTAINED` inside the other. Pairs that
    agree best are joined first, and an object has at most one prediction of each tile. Its mask is the union. Score,
    class, soft vector and mask quality are those of the member with the highest score.

    Args:
        found: predictions of each tile, in the tile's pixels.
        corners: top and left of each tile.
        image_size_hw: the image's size.
        max_per_image: most predictions that are returned, those of the highest scores.

    Source: ours. Slicing-aided inference (Akyon et al. 2022) suppresses by IoU or containment of the whole masks, which
    leaves the halves of an object that no tile shows whole.
    """
    pieces = [piece for place, one in enumerate(found) for piece in _pieces(place, one, corners[place], image_size_hw)]
    groups = _joined(pieces, _agreements(pieces))
    scores = np.concatenate([one.raw_scores for one in found])
    groups = [sorted(group, key=lambda number: (-scores[number], number)) for group in groups]
    groups = sorted(groups, key=lambda group: (-scores[group[0]], group[0]))[:max_per_image]
    best = np.array([group[0] for group in groups], dtype=np.int64)
    unions = [_union([pieces[number] for number in group]) for group in groups]
    boxes = np.concatenate(
        [
            one.boxes_xyxy + np.array([left, top, left, top], np.float32)
            for one, (top, left) in zip(found, corners, strict=True)
        ]
    )
    hulls = [np.concatenate([boxes[group, :2].min(axis=0), boxes[group, 2:].max(axis=0)]) for group in groups]
    return Instances(
        image_size_hw=image_size_hw,
        boxes_xyxy=np.array(hulls, dtype=np.float32).reshape(-1, 4),
        masks=tuple(encode_boxes([one.mask for one in unions], [one.corner for one in unions], image_size_hw)),
        class_indices=np.concatenate([one.class_indices for one in found])[best],
        raw_scores=scores[best],
        soft_vectors=np.concatenate([one.soft_vectors for one in found])[best],
        mask_quality=np.concatenate([one.mask_quality for one in found])[best],
    )


class _Patch(NamedTuple):
    """A mask inside its box: (h, w) booleans, and the box's top and left in the image."""

    mask: NDArray[np.bool_]
    corner: tuple[int, int]

    @property
    def rectangle(self) -> "_Rectangle":
        """The box in the image."""
        (top, left), (height, width) = self.corner, self.mask.shape
        return _Rectangle(top, left, top + height, left + width)

    def inside(self, rectangle: "_Rectangle") -> NDArray[np.bool_]:
        """Return the part of the mask inside a rectangle that lies in its box."""
        top, left = self.corner
        return self.mask[rectangle.top - top : rectangle.bottom - top, rectangle.left - left : rectangle.right - left]


class _Rectangle(NamedTuple):
    top: int
    left: int
    bottom: int
    right: int

    def shared_with(self, other: "_Rectangle") -> "_Rectangle | None":
        """Return the common part, None if there is none."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom, right = min(self.bottom, other.bottom), min(self.right, other.right)
        return _Rectangle(top, left, bottom, right) if top < bottom and left < right else None


@dataclass(frozen=True)
class _Piece:
    """A prediction of a tile: its mask, the tile's number and place, and whether the tile's border cuts the object."""

    patch: _Patch
    tile: int
    seen: _Rectangle
    is_cut: bool


def _pieces(tile: int, found: Instances, corner: tuple[int, int], image_size_hw: tuple[int, int]) -> Iterator[_Piece]:
    (top, left), (height, width) = corner, found.image_size_hw
    seen = _Rectangle(top, left, top + height, left + width)
    for mask, (y0, x0) in zip(*decode_boxes(found.masks), strict=True):
        patch = _Patch(mask, (top + y0, left + x0))
        near = patch.rectangle
        is_cut = (
            (0 < seen.top >= near.top - _BORDER)
            or (0 < seen.left >= near.left - _BORDER)
            or (image_size_hw[0] > seen.bottom <= near.bottom + _BORDER)
            or (image_size_hw[1] > seen.right <= near.right + _BORDER)
        )
        yield _Piece(patch, tile, seen, is_cut)


def _agreements(pieces: Sequence[_Piece]) -> list[tuple[float, int, int]]:
    """Return the pairs of predictions that are one object, with their IoU in the common part, best first."""
    areas = dict[tuple[int, _Rectangle], int]()

    def area_inside(number: int, common: _Rectangle) -> int:
        """Count a mask's pixels in the common part of two tiles, once for all its partners there."""
        key = number, common
        if key not in areas:
            areas[key] = _area_inside(pieces[number].patch, common)
        return areas[key]

    # One array for all pairs, because new ones take most of the time.
    scratch = np.empty(max((piece.patch.mask.size for piece in pieces), default=0), bool)
    pairs = []
    for number, other_number in _touching(pieces):
        one, other = pieces[number], pieces[other_number]
        common, shared = one.seen.shared_with(other.seen), one.patch.rectangle.shared_with(other.patch.rectangle)
        assert common is not None
        assert shared is not None
        inside = one.patch.inside(shared)
        both = np.bitwise_and(inside, other.patch.inside(shared), out=scratch[: inside.size].reshape(inside.shape))
        num_shared = np.count_nonzero(both)
        if not num_shared:
            continue
        area, other_area = area_inside(number, common), area_inside(other_number, common)
        iou = num_shared / (area + other_area - num_shared)
        smaller, smaller_area = (one, area) if area <= other_area else (other, other_area)
        if iou >= MERGE_IOU or (smaller.is_cut and num_shared / smaller_area >= MERGE_CONTAINED):
            pairs.append((iou, number, other_number))
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2]))


def _touching(pieces: Sequence[_Piece]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of predictions of different tiles whose boxes have a common part.

    Pieces are in the order of their tiles. Only tiles that have a common part are compared, because all pairs of an
    image's predictions would be too many.
    """
    if not pieces:
        return
    boxes = np.array([piece.patch.rectangle for piece in pieces])
    starts = np.flatnonzero(np.diff([piece.tile for piece in pieces], prepend=-1))
    ends = np.append(starts[1:], len(pieces))
    seen = np.array([pieces[start].seen for start in starts.tolist()])
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        for other in place + 1 + np.flatnonzero(_meet(seen[place], seen[place + 1 :])):
            first, others = boxes[start:end, None], boxes[None, starts[other] : ends[other]]
            for row, column in np.argwhere(_meet(first, others)).tolist():
                yield int(start) + row, int(starts[other]) + column


def _meet(boxes: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell which boxes (..., 4) of top, left, bottom and right have a common part."""
    starts, ends = np.maximum(boxes[..., :2], others[..., :2]), np.minimum(boxes[..., 2:], others[..., 2:])
    before: NDArray[np.bool_] = starts < ends
    return before[..., 0] & before[..., 1]


def _area_inside(patch: _Patch, rectangle: _Rectangle) -> int:
    part = patch.rectangle.shared_with(rectangle)
    return int(np.count_nonzero(patch.inside(part))) if part else 0


def _joined(pieces: Sequence[_Piece], pairs: Sequence[tuple[float, int, int]]) -> list[list[int]]:
    """Join predictions into objects, pair by pair. An object has at most one prediction of each tile."""
    group_of = {number: [number] for number in range(len(pieces))}
    for _, number, other in pairs:
        first, second = group_of[number], group_of[other]
        if first is not second and {pieces[one].tile for one in first}.isdisjoint(pieces[one].tile for one in second):
            first += second
            group_of.update(dict.fromkeys(second, first))
    return list({id(group): group for group in group_of.values()}.values())


def _union(pieces: Sequence[_Piece]) -> _Patch:
    rectangles = [piece.patch.rectangle for piece in pieces]
    top, left = min(one.top for one in rectangles), min(one.left for one in rectangles)
    bottom, right = max(one.bottom for one in rectangles), max(one.right for one in rectangles)
    mask = np.zeros((bottom - top, right - left), bool)
    for piece, one in zip(pieces, rectangles, strict=True):
        mask[one.top - top : one.bottom - top, one.left - left : one.right - left] |= piece.patch.mask
    return _Patch(mask, (top, left))
