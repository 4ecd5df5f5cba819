"""Splits of an annotated set by a hash of the image id."""

import hashlib
import json
from collections.abc import Collection, Mapping

from raylabel.dataset.annotated_set import AnnotatedSet
from raylabel.errors import InputError

REST = "labelled"


def split_by_hash(
    annotated: AnnotatedSet, fractions: Mapping[str, float], seed: int, *, unused: Collection[str] = ()
) -> dict[str, AnnotatedSet]:
    """Split a set into named parts.

    An image's part depends on its id and the seed alone, so adding images moves no other image.

    Args:
        annotated: the whole set.
        fractions: name -> expected share of each part, in (0, 1), in order. "labelled" gets the rest.
        seed: another seed gives another split.
        unused: names of parts that are not made. Their images join the rest; the other parts stay the same.

    Returns:
        The parts by name, "labelled" first. Images stay in the set's order.

    Raises:
        InputError: a fraction is out of its range, the fractions sum to 1 or more, or a part got no image.
    """
    if (
        REST in fractions
        or not all(0 < fraction < 1 for fraction in fractions.values())
        or sum(fractions.values()) >= 1
    ):
        raise InputError(f"fractions must be in (0, 1) and sum to < 1, without {REST!r}, got {dict(fractions)}")
    rows: dict[str, list[int]] = {name: [] for name in (REST, *fractions) if name not in unused}
    for row, image_id in enumerate(annotated.images.ids()):
        part = _part(unit_hash(image_id, seed), fractions)
        rows[part if part in rows else REST].append(row)
    for name, of_part in rows.items():
        if not of_part:
            raise InputError(f"split of {len(annotated)} images by {dict(fractions)}: {name!r} got no image")
    return {name: annotated.subset(of_part) for name, of_part in rows.items()}


def unit_hash(image_id: int | str, seed: int) -> float:
    """Return a hash in [0, 1), the same on every machine."""
    text = json.dumps([seed, image_id]).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:6], "big") / 2**48


def _part(position: float, fractions: Mapping[str, float]) -> str:
    end = 0.0
    for name, fraction in fractions.items():
        end += fraction
        if position < end:
            return name
    return REST
