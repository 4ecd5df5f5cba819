"""Checks of single fields of annotation and results files. Every reader of such a file uses them."""

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeGuard, TypeVar

from raylabel.dataset.frequency import FrequencyGroup
from raylabel.errors import InputError, shown, shown_name
from raylabel.masks.segmentation import MAX_COORDINATE, MAX_PIXELS, are_finite, checked_segmentation, rle_size

_Id = TypeVar("_Id", bound=Hashable)


def listed_objects(content: Any, name: str, where: str) -> list[dict[str, Any]]:
    """Return a list of objects of an annotation file. A list that is null counts as empty."""
    if not isinstance(content, dict):
        raise InputError(f"{where}: must be an object with images, annotations and categories")
    if name not in content:
        raise InputError(f"{where}: has no list {name!r}")
    rows = content[name] if content[name] is not None else []
    if not isinstance(rows, list) or not all(isinstance(one, dict) for one in rows):
        raise InputError(f"{where}: {name!r} must be a list of objects")
    return rows


def by_id(
    rows: list[dict[str, Any]], kind: str, where: str, check_id: Callable[[Any, str], _Id]
) -> dict[_Id, dict[str, Any]]:
    """Map ids to objects. Ids must be unique."""
    found: dict[_Id, dict[str, Any]] = {}
    for index, one in enumerate(rows):
        one_id = check_id(one.get("id"), f"{where}: {kind} number {index}")
        if one_id in found:
            raise InputError(f"{where}: {kind} id {shown_name(one_id)} is given twice")
        found[one_id] = one
    return found


def check_category_id(value: Any, where: str) -> int:
    """Check the id of a category: an integer, also a negative one. Tables store it in 64 bits."""
    if not is_integer(value) or not -(2**63) <= value < 2**63:
        raise InputError(f"{where}: id must be an integer of at most 64 bits, got {shown(value)}")
    return int(value)


def check_image_id(value: Any, where: str) -> int | str:
    """Check the id of an image or annotation: an integer or a string."""
    if not is_integer(value) and not isinstance(value, str):
        raise InputError(f"{where}: id must be an integer or a string, got {shown(value)}")
    known: int | str = value
    return known


def look_up(entry: Mapping[str, Any], name: str, places: Mapping[Any, int], where: str) -> int:
    """Return the place of an entry's `image_id` or `category_id`. Whole floats are ids too: tables write 7 as 7.0."""
    if name not in entry:
        raise InputError(f"{where} has no {name}")
    value = entry[name]
    if not is_known(value, places):
        raise InputError(f"{where}: unknown {name} {shown(value)}")
    return places[value]


def places_by_name(
    ids: Sequence[int | str], file_names: Sequence[str | None], places: Sequence[int] | None = None
) -> dict[int | str, int]:
    """Return the place of each image by its id and by its file name.

    Predictions on a folder name images by file name. An id goes before a name, and a name of two images is no one's.

    Args:
        ids: ids of the images.
        file_names: their names. None stands for an image without a name.
        places: their places. None numbers them from 0.
    """
    places = range(len(ids)) if places is None else places
    num_images = Counter(file_names)
    by_name: dict[int | str, int] = {
        name: place
        for name, place in zip(file_names, places, strict=True)
        if name is not None and num_images[name] == 1
    }
    return by_name | dict(zip(ids, places, strict=True))


def is_known(value: Any, places: Mapping[Any, int]) -> bool:
    """Tell whether a value of any JSON type is one of the ids."""
    return not isinstance(value, bool) and isinstance(value, int | float | str) and value in places


def refuse_ids_of_two_types(image_ids: Iterable[int | str], where: str) -> None:
    """Check that no two image ids have the same text, such as 1 and "1".

    Raises:
        InputError: two have.
    """
    of_type: dict[type, set[int | str]] = {int: set(), str: set()}
    for image_id in image_ids:
        of_type[type(image_id)].add(image_id)
    if of_type[str]:
        for number in of_type[int]:
            if str(number) in of_type[str]:
                raise InputError(f'{where}: image ids {number} and "{number}" differ by their type alone')


def check_side(one: Mapping[str, Any], name: str, where: str) -> int:
    """Check the `height` or `width` of an image."""
    value = one.get(name)
    if not is_integer(value) or value < 1:
        raise InputError(f"{where}: {name} must be a positive integer, got {shown(value)}")
    return int(value)


def check_image_size(one: Mapping[str, Any], where: str) -> tuple[int, int]:
    """Check height and width of an image."""
    height, width = check_side(one, "height", where), check_side(one, "width", where)
    if height * width >= MAX_PIXELS:
        raise InputError(f"{where}: height * width must be below {MAX_PIXELS}, got {shown(height)} * {shown(width)}")
    return height, width


def check_categories_of_image(one: Mapping[str, Any], name: str, known: Collection[int], where: str) -> list[int]:
    """Check a list of category ids of an image: LVIS's `neg_category_ids` or `not_exhaustive_category_ids`."""
    listed = one.get(name) if one.get(name) is not None else []
    if not isinstance(listed, list):
        raise InputError(f"{where}: {name} must be a list, got {shown(listed)}")
    for value in listed:
        if not is_integer(value) or value not in known:
            raise InputError(f"{where}: {name} has an unknown category {shown(value)}")
    return listed


def check_frequency(one: Mapping[str, Any], where: str) -> FrequencyGroup | None:
    """Check the `frequency` of a category, which LVIS gives."""
    frequency = one.get("frequency")
    if frequency not in (*FrequencyGroup, None):
        raise InputError(f"{where}: frequency must be r, c or f, got {shown(frequency)}")
    return None if frequency is None else FrequencyGroup(frequency)


def check_crowd_and_area(one: Mapping[str, Any], where: str) -> None:
    """Check the `iscrowd` and `area` of an annotation. Both may be missing."""
    if one.get("iscrowd") not in (None, 0, 1):
        raise InputError(f"{where}: iscrowd must be 0 or 1, got {shown(one['iscrowd'])}")
    if one.get("area") is not None and not are_finite([one["area"]], 1):
        raise InputError(f"{where}: area must be a finite number, got {shown(one['area'])}")


def check_box(box: Any, where: str) -> None:
    """Check a `bbox`."""
    if not are_finite(box, 4) or box[2] < 0 or box[3] < 0:
        raise InputError(f"{where}: bbox must be 4 finite numbers x, y, width >= 0, height >= 0, got {shown(box)}")
    if max(map(abs, box)) > MAX_COORDINATE:
        raise InputError(f"{where}: bbox must lie within {MAX_COORDINATE:g} pixels, got {shown(box)}")


def check_mask(segmentation: Any, image_size_hw: tuple[int, int] | None, where: str, *, remedy: str = "") -> Any:
    """Check a `segmentation` and return it with integers for the size of an RLE, see `checked_segmentation`.

    Args:
        segmentation: any JSON value.
        image_size_hw: size of the image. If it is None, an RLE must state a possible size, and polygons are refused.
        where: name of the annotation or detection, for messages.
        remedy: what gives polygons the size of their image, for the message.
    """
    if image_size_hw is None and isinstance(segmentation, list):
        raise InputError(f"{where}: polygons need the height and width of their image{remedy}")
    if image_size_hw is None and isinstance(segmentation, dict):
        image_size_hw = rle_size(segmentation)
        if image_size_hw is None:
            size = shown(segmentation.get("size"))
            raise InputError(f"{where}: RLE size must be the height and width of an image, got {size}")
    try:
        return checked_segmentation(segmentation, image_size_hw or (1, 1))
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None


def is_integer(value: Any) -> TypeGuard[int]:
    """Tell whether a value is an integer. JSON's true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)
