"""The entries of a COCO or LVIS results file, checked field by field. Every command that takes such a file reads it so.

A command checks only the fields that it needs. The other fields may hold anything.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylabel.dataset.fields import check_mask, is_integer, look_up
from raylabel.errors import InputError, shown, shown_name
from raylabel.masks.segmentation import first_bad_runs, rle_size

Entries = Sequence[Mapping[str, Any]]

SCORE_SLACK = 1e-6
"""Scores may exceed [0, 1] by this amount, because single precision rounds. They are clipped."""


class UnknownIdError(InputError):
    """An entry that names no known image or category.

    Attributes:
        name: the field, `image_id` or `category_id`.
        places: the known ids.
    """

    def __init__(self, message: str, name: str = "", places: Mapping[Any, int] | None = None) -> None:
        super().__init__(message)
        self.name, self.places = name, places or {}


def check_entries(content: Any, where: str, first: int = 0) -> Sequence[dict[str, Any]]:
    """Check that results are a list of objects. `first` is the number of the first entry.

    Raises:
        InputError: they are not.
    """
    if not isinstance(content, list):
        raise InputError(f"{where}: results must be a list of detections, got {type(content).__name__}")
    for row, one in enumerate(content, start=first):
        if not isinstance(one, dict):
            raise InputError(f"{entry_name(where, row)} must be an object, got {type(one).__name__}")
    return content


def entry_name(where: str, row: int) -> str:
    """Return the name of an entry, for messages."""
    return f"{where}: entry {row}"


def entry_places(entries: Entries, name: str, places: Mapping[Any, int], where: str, first: int = 0) -> list[int]:
    """Look up `image_id` or `category_id` of every entry. `first` is the number of the first entry.

    Raises:
        UnknownIdError: an entry lacks it or has an unknown one.
    """
    found = list[int]()
    for row, one in enumerate(entries, start=first):
        try:
            found.append(look_up(one, name, places, entry_name(where, row)))
        except InputError as error:
            raise UnknownIdError(str(error), name, places) from None
    return found


def entry_images(entries: Entries, where: str, first: int = 0) -> list[int | str]:
    """Return the `image_id` of every entry, when no list of images is known.

    Raises:
        InputError: an entry lacks it, or it is neither a whole number nor a string.
    """
    found = list[int | str]()
    for row, one in enumerate(entries, start=first):
        value = one.get("image_id")
        if not (is_integer(value) or isinstance(value, str) or (isinstance(value, float) and value.is_integer())):
            raise InputError(f"{entry_name(where, row)} has no image_id that is an integer or a string")
        found.append(value)  # type: ignore[arg-type]  # 7.0 is the key 7
    return found


def entry_scores(entries: Entries, where: str, first: int = 0, *, are_probabilities: bool) -> NDArray[np.float64]:
    """Return the score of every entry.

    Args:
        entries: entries of a results file.
        where: name of the results, for messages.
        first: number of the first entry, for messages.
        are_probabilities: whether scores must be in [0, 1]; they may exceed it by `SCORE_SLACK` and are clipped. For a
            ranking, any finite number will do.

    Raises:
        InputError: a score is missing, not a number, or out of range.
    """
    low, high = (-SCORE_SLACK, 1 + SCORE_SLACK) if are_probabilities else (-sys.float_info.max, sys.float_info.max)
    scores = _numbers_within([one.get("score") for one in entries], low, high)
    if scores is not None:
        return np.clip(scores, 0, 1) if are_probabilities else scores
    for row, one in enumerate(entries, start=first):
        if "score" not in one:
            raise InputError(f"{entry_name(where, row)} has no score")
        score = one["score"]
        if isinstance(score, bool) or not isinstance(score, int | float) or not low <= score <= high:
            kind = "a number in [0, 1]" if are_probabilities else "a finite number"
            raise InputError(f"{entry_name(where, row)}: score must be {kind}, got {shown(score)}")
    raise AssertionError("a score must be out of range")


def entry_shares(entries: Entries, name: str, where: str, first: int = 0) -> NDArray[np.float64] | list[float | None]:
    """Return a field that must be a number in [0, 1] where it is given, and None where an entry lacks it.

    Raises:
        InputError: it is something else. The message names the entry.
    """
    values = [one.get(name) for one in entries]
    shares = _numbers_within(values, 0, 1)
    if shares is not None:
        return shares
    for row, (value, one) in enumerate(zip(values, entries, strict=True), start=first):
        is_share = not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value <= 1
        if name in one and not is_share:
            raise InputError(f"{entry_name(where, row)}: {name} must be a number in [0, 1], got {shown(value)}")
    return [None if value is None else float(value) for value in values]


def _numbers_within(values: list[Any], low: float, high: float) -> NDArray[np.float64] | None:
    """Return values as an array if all are numbers from `low` to `high`."""
    if not {int, float}.issuperset(map(type, values)):
        return None
    try:
        numbers = np.array(values, dtype=np.float64)
    except OverflowError:
        return None
    return numbers if ((numbers >= low) & (numbers <= high)).all() else None


def entry_masks(
    entries: Entries,
    images: Sequence[Any],
    sizes_hw: Mapping[Any, tuple[int, int]],
    where: str,
    first: int = 0,
    *,
    remedy: str = "",
    may_lack_size: bool = False,
) -> list[Any]:
    """Return the checked `segmentation` of every entry, see `checked_segmentation`.

    Args:
        entries: entries of a results file.
        images: key of each entry's image.
        sizes_hw: image key -> height and width. The first RLE of an image without a known size gives its size.
        where: name of the results, for messages.
        first: number of the first entry, for messages.
        remedy: see `check_mask`.
        may_lack_size: whether to return polygons unchecked if the size of their image is not known.

    Raises:
        InputError: an entry has no mask, or a damaged one.
    """
    known, masks = dict(sizes_hw), list[Any]()
    for image, one in zip(images, entries, strict=True):
        if image not in known and (size_hw := rle_size(one.get("segmentation"))):
            known[image] = size_hw
    for row, (image, one) in enumerate(zip(images, entries, strict=True), start=first):
        mask = one.get("segmentation")
        if mask is None:
            raise InputError(f"{entry_name(where, row)} has no segmentation: masks are compared here, not boxes")
        if not (may_lack_size and isinstance(mask, list) and image not in known):
            mask = check_mask(mask, known.get(image), _with_image(where, row, one), remedy=remedy)
        masks.append(mask)
    bad = first_bad_runs(masks)
    if bad is not None:
        raise InputError(f"{_with_image(where, first + bad[0], entries[bad[0]])}: {bad[1]}")
    return masks


def _with_image(where: str, row: int, entry: Mapping[str, Any]) -> str:
    return f"{entry_name(where, row)} (image {shown_name(entry.get('image_id'))})"
