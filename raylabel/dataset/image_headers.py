"""Annotated images checked by their headers, at a few kilobytes each."""

import io
from collections.abc import Callable, Sequence

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from raylabel.dataset.annotated_set import ImageRecord
from raylabel.dataset.images import FORMATS, ImageError, check_size, exif_orientation, read_annotated_image
from raylabel.files.stored_file import StoredFile
from raylabel.threads import READING_THREADS, map_on_threads

_HEADER_BYTES = 1 << 16
_TAIL_BYTES = 1 << 11
_ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
"""Bytes near the end of a whole file. Other formats have no such mark."""


def unusable_images(
    images: Sequence[ImageRecord], *, max_pixels: int, thorough: bool = False, on_image: Callable[[int], None]
) -> list[tuple[ImageRecord, str]]:
    """Find the images that a stage would refuse, with its reason for each.

    A header of the right size at the start of a file that ends as its format does is enough. Any other image is read
    whole by the reader of the stages, so the reasons are the same. Damage in the middle of a file shows only in its
    pixels.

    Args:
        images: annotated images.
        max_pixels: see `read_image`.
        thorough: read the pixels of every image.
        on_image: called after each image with the number of images so far.

    Raises:
        StorageError: the disk or the network failed.
    """

    def reason(image: ImageRecord) -> str | None:
        try:
            if thorough or not _looks_sound(image, max_pixels):
                pixels = read_annotated_image(image.uri, image.image_size_hw, max_pixels=max_pixels)
                check_size(pixels, image.image_size_hw)
        except ImageError as error:
            return str(error)
        return None

    found = []
    for row, why in enumerate(map_on_threads(reason, images, num_threads=READING_THREADS)):
        on_image(row + 1)
        if why is not None:
            found.append((images[row], why))
    return found


def _looks_sound(image: ImageRecord, max_pixels: int) -> bool:
    try:
        with (
            StoredFile(image.uri) as file,
            Image.open(io.BufferedReader(file, _HEADER_BYTES), formats=FORMATS) as opened,
        ):
            if isinstance(opened, TiffImageFile) or opened.width * opened.height > max_pixels:
                return False
            size_hw = opened.height, opened.width
            is_turned = size_hw != image.image_size_hw and exif_orientation(opened) >= 5
            if (size_hw[::-1] if is_turned else size_hw) != image.image_size_hw:
                return False
            tail = file.read_at(_TAIL_BYTES, max(0, file.num_bytes - _TAIL_BYTES))
            return _ENDS.get(opened.format or "", b"") in tail
    except Exception:
        # Any exception, because the reader of the stages tells what it means.
        return False
