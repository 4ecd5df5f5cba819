"""The place of an image, and the one orientation in which every stage reads it."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raylabel.dataset.images import ImageError, decode_image, read_content


class ImageSource(NamedTuple):
    """The place of an image, and the orientation to read it in.

    Attributes:
        uri: see `ImageReader`.
        size_hw: height and width that the pixels must have: those of the annotations or labels. None accepts any size.
        as_stored: read the stored pixels. Otherwise they are turned by the EXIF orientation, as viewers show them. If
            only the other orientation has the size, the image is read in that one.
    """

    uri: str
    size_hw: tuple[int, int] | None = None
    as_stored: bool = False


def read_source(source: ImageSource, *, max_pixels: int) -> NDArray[np.uint8]:
    """Read an image in the orientation of its source.

    Args:
        source: the image.
        max_pixels: see `read_image`.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageError: see `ImageReader.read`. Also "another size", with both sizes, if no orientation has the size.
        StorageError: see `ImageReader.read`.
    """
    return decode_source(read_content(source.uri, max_pixels=max_pixels), source, max_pixels=max_pixels)


def decode_source(content: bytes, source: ImageSource, *, max_pixels: int) -> NDArray[np.uint8]:
    """Decode the content of an image in the orientation of its source; see `read_source`."""
    pixels_HW3 = decode_image(content, max_pixels=max_pixels, as_displayed=not source.as_stored)
    if source.size_hw is None:
        return pixels_HW3
    height, width = source.size_hw
    if pixels_HW3.shape[:2] == (height, width):
        return pixels_HW3
    if pixels_HW3.shape[:2] == (width, height):
        other_HW3 = decode_image(content, max_pixels=max_pixels, as_displayed=source.as_stored)
        if other_HW3.shape[:2] == (height, width):
            return other_HW3
    found_height, found_width = pixels_HW3.shape[:2]
    raise ImageError(
        f"another size: {found_width} x {found_height} pixels (width x height), annotated as {width} x {height}"
    )
