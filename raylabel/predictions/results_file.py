"""The entries of a COCO or LVIS results file, checked field by field. Every command that takes such a file reads it so.

A command checks only the fields that it needs. The other fields may hold anything.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylabel.dataset.fields import check_mask, is_integer, is_known, look_up
from raylabel.errors import InputError, shown, shown_name
from raylabel.files.storage import read_json
from raylabel.masks.segmentation import first_bad_runs, rle_size

Entries = Sequence[Mapping[str, Any]]

SCORE_SLACK = 1e-6
"""Scores may exceed [0, 1] by this amount, because single precision rounds. They are clipped."""


def read_entries(path: str) -> list[dict[str, Any]]:
    """Read the entries of a results file. A file without detections gives an empty list.

    Raises:
        InputError: the file is missing, not JSON, or not a list of objects.
    """
    return check_entries(read_json(path), path)


def check_entries(content: Any, where: str) -> list[dict[str, Any]]:
    """Check that results are a list of objects.

    Raises:
        InputError: they are not.
    """
    if not isinstance(content, list):
        raise InputError(f"{where}: results must be a list of detections, got {type(content).__name__}")
    for row, one in enumerate(content):
        if not isinstance(one, dict):
            raise InputError(f"{entry_name(where, row)} must be an object, got {type(one).__name__}")
    return content


def entry_name(where: str, row: int) -> str:
    """Return the name of an entry, for messages."""
    return f"{where}: entry {row}"


def entry_places(entries: Entries, name: str, places: Mapping[Any, int], where: str) -> list[int]:
    """Look up `image_id` or `category_id` of every entry.

    Raises:
        InputError: an entry lacks it or has an unknown one. The message says how many entries do.
    """
    found = list[int]()
    for row, one in enumerate(entries):
        try:
            found.append(look_up(one, name, places, entry_name(where, row)))
        except InputError as error:
            num_unknown = sum(not is_known(other.get(name), places) for other in entries)
            kind = name.removesuffix("_id")
            raise InputError(
                f"{error}. {num_unknown} of {len(entries)} entries name no {kind} of the annotations."
            ) from None
    return found


def entry_images(entries: Entries, where: str) -> list[int | str]:
    """Return the `image_id` of every entry, when no list of images is known.

    Raises:
        InputError: an entry lacks it, or it is neither a whole number nor a string.
    """
    found = list[int | str]()
    for row, one in enumerate(entries):
        value = one.get("image_id")
        if not (is_integer(value) or isinstance(value, str) or (isinstance(value, float) and value.is_integer())):
            raise InputError(f"{entry_name(where, row)} has no image_id that is an integer or a string")
        found.append(value)  # type: ignore[arg-type]  # 7.0 is the key 7
    return found


def entry_scores(entries: Entries, where: str, *, are_probabilities: bool) -> NDArray[np.float64]:
    """Return the score of every entry.

    Args:
        entries: entries of a results file.
        where: name of the results, for messages.
        are_probabilities: whether scores must be in [0, 1]; they may exceed it by `SCORE_SLACK` and are clipped. For a
            ranking, any finite number will do.

    Raises:
        InputError: a score is missing, not a number, or out of range.
    """
    low, high = (-SCORE_SLACK, 1 + SCORE_SLACK) if are_probabilities else (-sys.float_info.max, sys.float_info.max)
    for row, one in enumerate(entries):
        if "score" not in one:
            raise InputError(f"{entry_name(where, row)} has no score")
        score = one["score"]
        if isinstance(score, bool) or not isinstance(score, int | float) or not low <= score <= high:
            kind = "a number in [0, 1]" if are_probabilities else "a finite number"
            raise InputError(f"{entry_name(where, row)}: score must be {kind}, got {shown(score)}")
    scores = np.array([one["score"] for one in entries], dtype=np.float64)
    return np.clip(scores, 0, 1) if are_probabilities else scores


def entry_masks(
    entries: Entries, images: Sequence[Any], sizes_hw: Mapping[Any, tuple[int, int]], where: str, *, remedy: str = ""
) -> list[Any]:
    """Return the checked `segmentation` of every entry, see `checked_segmentation`.

    Args:
        entries: entries of a results file.
        images: key of each entry's image.
        sizes_hw: image key -> height and width. The first RLE of an image without a known size gives its size.
        where: name of the results, for messages.
        remedy: see `check_mask`.

    Raises:
        InputError: an entry has no mask, or a damaged one.
    """
    known, masks = dict(sizes_hw), list[Any]()
    for image, one in zip(images, entries, strict=True):
        if image not in known and (size_hw := rle_size(one.get("segmentation"))):
            known[image] = size_hw
    for row, (image, one) in enumerate(zip(images, entries, strict=True)):
        if one.get("segmentation") is None:
            raise InputError(f"{entry_name(where, row)} has no segmentation: masks are compared here, not boxes")
        masks.append(check_mask(one["segmentation"], known.get(image), _with_image(where, row, one), remedy=remedy))
    bad = first_bad_runs(masks)
    if bad is not None:
        raise InputError(f"{_with_image(where, bad[0], entries[bad[0]])}: {bad[1]}")
    return masks


def _with_image(where: str, row: int, entry: Mapping[str, Any]) -> str:
    return f"{entry_name(where, row)} (image {shown_name(entry.get('image_id'))})"
