"""Annotated images checked by their headers, at a few kilobytes each, and the digests of their contents."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from raylabel.dataset.annotated_set import ImageRecord
from raylabel.dataset.content import HEAD_BYTES, TAIL_BYTES, Contents, content_digest, digest_of_ends
from raylabel.dataset.images import (
    FORMATS,
    ImageError,
    check_size,
    decode_annotated_image,
    exif_orientation,
    read_content,
)
from raylabel.files.stored_file import StoredFile
from raylabel.threads import READING_THREADS, map_on_threads

_BUFFER_BYTES = 1 << 16
_ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
"""Bytes near the end of a whole file. Other formats have no such mark."""


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What the headers of annotated images tell.

    Attributes:
        unusable: images that a stage would refuse, with its reason for each.
        contents: the contents of the other images, by their file names.
        sizes: sizes in bytes that these images have, sorted.
    """

    unusable: list[tuple[ImageRecord, str]]
    contents: Contents
    sizes: NDArray[np.int64]


def examine_images(
    images: Sequence[ImageRecord], *, max_pixels: int, thorough: bool = False, on_image: Callable[[int], None]
) -> Examined:
    """Find the images that a stage would refuse, and the digests of the others' contents.

    A header of the right size at the start of a file that ends as its format does is enough. Any other image is read
    whole by the decoder of the stages, so the reasons are the same. Damage in the middle of a file shows only in its
    pixels.

    Args:
        images: annotated images.
        max_pixels: see `decode_image`.
        thorough: read the pixels of every image.
        on_image: called after each image with the number of images so far.

    Raises:
        StorageError: the disk or the network failed.
    """

    def examine(image: ImageRecord) -> tuple[int, int] | str:
        try:
            found = None if thorough else _from_header(image, max_pixels)
            if found is None:
                content = read_content(image.uri, max_pixels=max_pixels)
                pixels = decode_annotated_image(content, image.image_size_hw, max_pixels=max_pixels)
                check_size(pixels, image.image_size_hw)
                found = len(content), content_digest(content)
        except ImageError as error:
            return str(error)
        return found

    unusable, names = list[tuple[ImageRecord, str]](), list[str]()
    sizes, digests = np.zeros(len(images), np.int64), np.zeros(len(images), np.uint64)
    for row, found in enumerate(map_on_threads(examine, images, num_threads=READING_THREADS)):
        on_image(row + 1)
        if isinstance(found, str):
            unusable.append((images[row], found))
        else:
            sizes[len(names)], digests[len(names)] = found
            names.append(images[row].file_name)
    return Examined(
        unusable=unusable,
        contents=Contents.of(digests[: len(names)], names),
        sizes=np.unique(sizes[: len(names)]),
    )


def _from_header(image: ImageRecord, max_pixels: int) -> tuple[int, int] | None:
    """Return the file's size and digest if its header looks sound. The first bytes serve both, at no further read."""
    try:
        with StoredFile(image.uri) as file:
            buffered = io.BufferedReader(file, _BUFFER_BYTES)
            head = buffered.peek()[:HEAD_BYTES]
            with Image.open(buffered, formats=FORMATS) as opened:
                if isinstance(opened, TiffImageFile) or opened.width * opened.height > max_pixels:
                    return None
                size_hw = opened.height, opened.width
                is_turned = size_hw != image.image_size_hw and exif_orientation(opened) >= 5
                if (size_hw[::-1] if is_turned else size_hw) != image.image_size_hw:
                    return None
                tail = file.read_at(TAIL_BYTES, max(0, file.num_bytes - TAIL_BYTES))
                digest = digest_of_ends(file.num_bytes, head, tail)
                if digest is None or _ENDS.get(opened.format or "", b"") not in tail:
                    return None
                return file.num_bytes, digest
    except Exception:
        # Any exception, because the reader of the stages tells what it means.
        return None
