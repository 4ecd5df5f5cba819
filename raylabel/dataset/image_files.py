"""The files of annotated images: those that are missing, and the image files beside them that no annotation names."""

import os
from collections.abc import Iterable, Mapping
from functools import cache
from typing import NamedTuple

from raylabel.dataset.annotated_set import AnnotatedSet
from raylabel.dataset.containers import split_reference
from raylabel.dataset.pool.image import is_image_name
from raylabel.errors import InputError, some_of
from raylabel.files.file_systems import local_path
from raylabel.files.paths import split
from raylabel.files.reading import exists, list_files


class ImageFiles(NamedTuple):
    """What the listings of the images' folders tell.

    Attributes:
        unnamed: number of image files without an annotation by folder, without zeros.
        stamps: size in bytes and time of change in nanoseconds of annotated images by URI. Images in containers have
            none, and neither have those of a store that does not tell it.
    """

    unnamed: dict[str, int]
    stamps: dict[str, tuple[int, int]]


def check_images_exist(splits: Mapping[str, AnnotatedSet], also_named: Iterable[str] = ()) -> ImageFiles:
    """Check that annotated images exist, and count the image files in their folders that no annotation file names.

    Each folder is listed once, because object stores answer slowly. Folders without an annotated image are not listed.

    Args:
        splits: annotated sets by their names in the config.
        also_named: URIs of further annotated images, which may be missing.

    Raises:
        InputError: an image is missing. The message names some of its split and counts the others.
    """
    folder_of = cache(_folder)
    by_folder: dict[str, list[tuple[str, str, str]]] = {}
    for name, annotated in splits.items():
        for uri in annotated.images.uris():
            folder, file_name = split(uri)
            by_folder.setdefault(folder_of(folder), []).append((name, uri, file_name))
    others: dict[str, set[str]] = {}
    for uri in also_named:
        if (folder := folder_of(split(uri)[0])) in by_folder:
            others.setdefault(folder, set()).add(split(uri)[1])
    missing: dict[str, list[str]] = {name: [] for name in splits}
    found = ImageFiles({}, {})
    for folder, images in by_folder.items():
        try:
            there = {info.base_name: (info.size, info.mtime_ns) for info in list_files(folder)}
        except NotADirectoryError:
            name, uri, _ = images[0]
            raise InputError(
                f"data.{name}: {uri}: {folder} is not a folder. data.images must be the folder of the images."
            ) from None
        named = others.get(folder, set())
        for name, uri, file_name in images:
            files = _file_names(uri) if "#" in uri else [file_name]
            named.update(files)
            if there.keys().isdisjoint(files) and not _is_unlisted(uri):
                missing[name].append(uri)
            stamp = there.get(files[0])
            if len(files) == 1 and stamp is not None and None not in stamp:
                found.stamps[uri] = stamp
        if num_unnamed := sum(map(is_image_name, there.keys() - named)):
            found.unnamed[folder] = num_unnamed
    for name, uris in missing.items():
        if uris:
            num, word = len(uris), "image" if len(uris) == 1 else "images"
            raise InputError(f"data.{name}: {some_of(uris)}: no such {word}, {num} of {len(splits[name])} are missing")
    return found


def _folder(uri: str) -> str:
    """Return a folder's one spelling, because several splits may spell it otherwise."""
    path = local_path(uri)
    return uri if path is None else os.path.realpath(path)


def _is_unlisted(uri: str) -> bool:
    """Tell whether an image exists although `list_files` leaves out its name."""
    name = split(uri)[1]
    return (name.startswith(".") or name.endswith(".tmp")) and exists(uri)


def _file_names(uri: str) -> list[str]:
    """Return the name of an image's file and, of a reference such as `x.tar#1.jpg`, the name of the container."""
    reference = split_reference(uri)
    return [split(one)[1] for one in (uri, reference and reference[0]) if one]
