"""The entries of a results file as columns. Checks run over whole columns; a fault is then found entry by entry."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylabel.dataset.fields import check_box, is_known
from raylabel.errors import InputError
from raylabel.masks.rle_check import check_runs
from raylabel.masks.segmentation import MAX_PIXELS, rle_from_segmentation
from raylabel.predictions.context import MODEL_FEATURES
from raylabel.predictions.results_file import (
    UnknownIdError,
    check_entries,
    entry_images,
    entry_masks,
    entry_name,
    entry_places,
    entry_scores,
    entry_shares,
)
from raylabel.predictions.results_parts import BAD_TEXT, Part, Results, iter_parts, iter_slow_parts
from raylabel.processes import map_on_processes

_MASKS_AT_A_TIME = 1000
"""Large enough to make NumPy calls cheap, small enough for the arrays to stay in the cache."""

_FEATURES = frozenset(MODEL_FEATURES)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a command reads of each entry.

    Attributes:
        where: name of the results, for messages.
        places: image id -> place of the image. None if no list of images is known.
        classes: category id -> class index.
        are_probabilities: see `entry_scores`.
        with_masks: whether to read masks.
        sizes_hw: place of an image -> its height and width. An RLE gives the size of other images.
        remedy: see `check_mask`.
        with_features: whether to read the fields MODEL_FEATURES.
        with_boxes: whether to read `bbox`.
        must_have_box: whether each entry needs a `bbox`.
        refused: field that no entry may have, and the reason.
    """

    where: str
    places: Mapping[int | str, int] | None
    classes: Mapping[Any, int]
    are_probabilities: bool = True
    with_masks: bool = True
    sizes_hw: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    remedy: str = ""
    with_features: bool = False
    with_boxes: bool = False
    must_have_box: bool = False
    refused: tuple[str, str] | None = None


ROWS = pa.schema(
    [
        ("entry", pa.int64()),
        ("image", pa.int64()),
        ("image_name", pa.string()),
        ("class_index", pa.int32()),
        ("score", pa.float64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("counts", pa.binary()),
        ("polygons", pa.string()),
        ("is_polygons", pa.bool_()),
        ("box_xywh", pa.list_(pa.float64(), 4)),
        *((name, pa.float64()) for name in MODEL_FEATURES),
    ]
)
"""Columns of entries. A column that nobody wanted, and a field that an entry lacks, is null.

`entry` is the place in the file. `image` is the place in `Wanted.places`; `image_name` is the id as JSON if no list of
images is known. A mask is `counts`, a compressed RLE of `height` x `width`. `is_polygons` tells whether the results
have polygons there. Polygons of an image whose size is not known yet stay JSON.
"""


def iter_columns(results: Results, wanted: Wanted) -> Iterator[pa.RecordBatch]:
    """Yield batches of `ROWS`, in the order of the results. Text is parsed and checked on processes.

    Raises:
        InputError: the results are missing or malformed, or an entry is. The message names the entry.
    """
    num_rows = 0
    try:
        for part, columns in map_on_processes(partial(_sound_columns, wanted), iter_parts(results)):
            found = read_columns(part.entries(), wanted, num_rows) if columns is None else _moved(columns, num_rows)
            num_rows += len(found)
            yield found
    except UnknownIdError as error:
        raise _with_count(error, results, wanted) from None
    except InputError:
        raise
    except BAD_TEXT:
        yield from _slow_columns(results, wanted, num_rows)


def _slow_columns(results: Results, wanted: Wanted, num_done: int) -> Iterator[pa.RecordBatch]:
    """Yield the batches after `num_done` entries of text that can't be cut."""
    num_rows = 0
    try:
        for part in iter_slow_parts(results, wanted.where):
            found = read_columns(part.entries(), wanted, num_rows)
            rest = found.slice(min(len(found), max(0, num_done - num_rows)))
            num_rows += len(found)
            if len(rest):
                yield rest
    except UnknownIdError as error:
        raise _with_count(error, results, wanted) from None


def _with_count(error: UnknownIdError, results: Results, wanted: Wanted) -> InputError:
    """Say how many entries of all have an unknown id."""
    num_entries = num_unknown = 0
    for part in iter_slow_parts(results, wanted.where):
        entries = part.entries()
        num_entries += len(entries)
        num_unknown += sum(
            not (isinstance(one, dict) and is_known(one.get(error.name), error.places)) for one in entries
        )
    kind = error.name.removesuffix("_id")
    return InputError(f"{error}. {num_unknown} of {num_entries} entries name no {kind} of the annotations.")


def _moved(columns: pa.RecordBatch, num_rows: int) -> pa.RecordBatch:
    """Number the entries from `num_rows` on, because a process does not know what is before its part."""
    entry = pa.array(np.arange(num_rows, num_rows + len(columns)))
    return columns.set_column(0, ROWS.field(0), entry)


def _sound_columns(wanted: Wanted, part: Part) -> pa.RecordBatch | None:
    """Return the columns of a part, None if it has a fault. The caller then knows the number of the entry."""
    try:
        return read_columns(part.entries(), wanted, 0)
    except BAD_TEXT:
        return None


def read_columns(entries: Sequence[Any], wanted: Wanted, first: int) -> pa.RecordBatch:
    """Check entries and return them as columns of `ROWS`.

    Args:
        entries: entries of a results file.
        wanted: what to read.
        first: number of the first entry, for messages.

    Raises:
        InputError: an entry is malformed.
        UnknownIdError: an entry names an unknown image or category.
    """
    where = wanted.where
    check_entries(entries, where, first)
    columns: dict[str, Any] = {"entry": np.arange(first, first + len(entries))}
    if wanted.refused is not None:
        name, reason = wanted.refused
        for row, one in enumerate(entries, start=first):
            if name in one:
                raise InputError(f"{entry_name(where, row)} {reason}")
    images = None
    if wanted.places is not None:
        images = _places(entries, "image_id", wanted.places, where, first)
        columns["image"] = images
    elif wanted.with_masks:
        columns["image_name"] = [
            json.dumps(int(one) if isinstance(one, float) else one) for one in entry_images(entries, where, first)
        ]
    columns["class_index"] = _places(entries, "category_id", wanted.classes, where, first).astype(np.int32)
    columns["score"] = entry_scores(entries, where, first, are_probabilities=wanted.are_probabilities)
    if wanted.with_masks:
        columns |= _masks(entries, images, wanted, first)
    if wanted.with_features and not all(map(_FEATURES.isdisjoint, entries)):
        columns |= {name: entry_shares(entries, name, where, first) for name in MODEL_FEATURES}
    if wanted.with_boxes:
        columns["box_xywh"] = _boxes(entries, wanted, first)
    arrays = [
        pa.array(columns[one.name], one.type) if one.name in columns else pa.nulls(len(entries), one.type)
        for one in ROWS
    ]
    return pa.record_batch(arrays, schema=ROWS)


def _places(
    entries: Sequence[Mapping[str, Any]], name: str, places: Mapping[Any, int], where: str, first: int
) -> NDArray[np.int64]:
    values = [one.get(name) for one in entries]
    if {int, str, float}.issuperset(map(type, values)):
        found = list(map(places.get, values))
        if None not in found:
            return np.array(found, dtype=np.int64)
    return np.array(entry_places(entries, name, places, where, first), dtype=np.int64)


def _masks(
    entries: Sequence[Mapping[str, Any]], images: NDArray[np.int64] | None, wanted: Wanted, first: int
) -> dict[str, Any]:
    known_hw = np.full((len(entries), 2), -1, dtype=np.int64)
    if images is not None:
        known_hw[:] = [wanted.sizes_hw.get(one, (-1, -1)) for one in images.tolist()]
    fast = _plain_masks(entries, known_hw)
    if fast is not None:
        return fast
    # No size of another entry counts here, because the first RLE of the image may be in another part.
    sizes_hw = {row: (height, width) for row, (height, width) in enumerate(known_hw.tolist()) if height > 0}
    counts, polygons = list[bytes | None](), list[str | None]()
    checked = entry_masks(
        entries, range(len(entries)), sizes_hw, wanted.where, first, remedy=wanted.remedy, may_lack_size=True
    )
    for row, mask in enumerate(checked):
        if isinstance(mask, list) and row not in sizes_hw:
            counts.append(None)
            polygons.append(json.dumps(mask))
            continue
        rle = rle_from_segmentation(mask, sizes_hw.get(row, (0, 0)), check=False)
        known_hw[row] = rle["size"]
        counts.append(rle["counts"])
        polygons.append(None)
    height, width = known_hw.T
    is_polygons = [isinstance(mask, list) for mask in checked]
    return {"height": height, "width": width, "counts": counts, "polygons": polygons, "is_polygons": is_polygons}


def _plain_masks(entries: Sequence[Mapping[str, Any]], known_hw: NDArray[np.int64]) -> dict[str, Any] | None:
    """Return the masks if all are sound compressed RLEs of the size of their image, as most files have them."""
    try:
        masks = [one["segmentation"] for one in entries]
        counts = [one["counts"] for one in masks]
        sizes = [one["size"] for one in masks]
        sides = list(chain.from_iterable(sizes))
        if not ({list} >= set(map(type, sizes)) and {2} >= set(map(len, sizes)) and {int} >= set(map(type, sides))):
            return None
        sizes_hw = np.array(sides, dtype=np.int64).reshape(-1, 2)
        if {str}.issuperset(map(type, counts)):
            counts = [one.encode("ascii") for one in counts]
        if not {bytes}.issuperset(map(type, counts)):
            return None
        has_size = (sizes_hw > 0).all() and (sizes_hw < MAX_PIXELS).all() and (sizes_hw.prod(axis=1) < MAX_PIXELS).all()
        if not has_size or ((known_hw > 0) & (sizes_hw != known_hw)).any():
            return None
        for low in range(0, len(counts), _MASKS_AT_A_TIME):
            rows = slice(low, low + _MASKS_AT_A_TIME)
            check_runs(counts[rows], sizes_hw[rows].prod(axis=1))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    is_polygons = np.zeros(len(counts), dtype=bool)
    return {"height": sizes_hw[:, 0], "width": sizes_hw[:, 1], "counts": counts, "is_polygons": is_polygons}


def _boxes(entries: Sequence[Mapping[str, Any]], wanted: Wanted, first: int) -> list[Any]:
    boxes = [one.get("bbox") or None for one in entries]
    for row, box in enumerate(boxes):
        if box is not None:
            check_box(box, entry_name(wanted.where, first + row))
        elif wanted.must_have_box:
            # hotcoco would count it as a box that overlaps nothing.
            raise InputError(f"{entry_name(wanted.where, first + row)} has no bbox, which iou_type 'bbox' needs")
    return boxes
