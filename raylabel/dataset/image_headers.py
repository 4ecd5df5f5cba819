"""Annotated images checked by their headers, at a few kilobytes each, and the orientation of their annotations."""

import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from raylabel.dataset.annotated_set import ImageRecord
from raylabel.dataset.containers import split_reference
from raylabel.dataset.image_source import ImageSource, read_source
from raylabel.dataset.images import FORMATS, ImageError, exif_orientation, read_image, read_image_bytes
from raylabel.errors import StorageError
from raylabel.files.stored_file import StoredFile
from raylabel.threads import READING_THREADS, map_on_threads

NUM_TELLING = 1000
"""Largest number of headers that tell how a file annotates images."""

_HEADER_BYTES = 1 << 16
_TAIL_BYTES = 1 << 11
_ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
"""Bytes near the end of a whole file. Other formats have no such mark."""
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257

Turn = Literal["stored", "displayed", "either"]
"""The orientation of an image's annotations: one, or either if both have the annotated size."""


@dataclass(frozen=True, kw_only=True)
class HeaderFindings:
    """What the headers of annotated images tell.

    Attributes:
        unusable: the images that a stage would refuse, with its reason for each.
        turns: number of usable images that an EXIF orientation turns or mirrors, by the orientation of their
            annotations.
    """

    unusable: list[tuple[ImageRecord, str]]
    turns: Counter[Turn]

    def turned_text(self, *, as_stored: bool) -> str:
        """Say how many images are turned and how each is read, "" if none is turned.

        Args:
            as_stored: the orientation of the images that have the annotated size in both.
        """
        if not self.turns:
            return ""
        how: dict[Turn, str] = {
            "stored": "annotated and read as stored",
            "displayed": "annotated and read as displayed",
            "either": f"of the annotated size either way and read as {'stored' if as_stored else 'displayed'}",
        }
        parts = ", ".join(f"{self.turns[turn]} {words}" for turn, words in how.items() if self.turns[turn])
        return f"images that EXIF turns or mirrors: {parts}"


def check_headers(
    images: Sequence[ImageRecord], *, max_pixels: int, thorough: bool = False, on_image: Callable[[int], None]
) -> HeaderFindings:
    """Find the images that a stage would refuse, and those that an EXIF orientation turns.

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

    def examine(image: ImageRecord) -> tuple[Turn | None, str | None]:
        source = image.source
        is_sound, turn = _glance(source, max_pixels)
        try:
            if thorough or not is_sound:
                read_source(source, max_pixels=max_pixels)
        except ImageError as error:
            return None, str(error)
        return turn, None

    found = HeaderFindings(unusable=[], turns=Counter())
    for row, (turn, why) in enumerate(map_on_threads(examine, images, num_threads=READING_THREADS)):
        on_image(row + 1)
        if why is not None:
            found.unusable.append((images[row], why))
        elif turn is not None:
            found.turns[turn] += 1
    return found


def are_annotated_as_stored(sources: Sequence[ImageSource], *, max_pixels: int) -> bool:
    """Tell whether a file annotates stored pixels. Its images whose annotated size fits one orientation alone tell.

    The headers of at most `NUM_TELLING` images are read, evenly spread over those that are not square. A file that
    annotates any of them as stored is a file of stored pixels. So is a file without an image that tells.

    Args:
        sources: the images of the file. Images that cannot be read tell nothing.
        max_pixels: see `read_image`.

    Raises:
        StorageError: the disk or the network failed.
    """
    oblong = [one for one in sources if one.size_hw is not None and one.size_hw[0] != one.size_hw[1]]
    num = min(NUM_TELLING, len(oblong))
    telling = [oblong[place * len(oblong) // num] for place in range(num)]
    tells_displayed = False
    for turn in map_on_threads(lambda one: _turn_of(one, max_pixels), telling, num_threads=READING_THREADS):
        if turn == "stored":
            return True
        tells_displayed |= turn == "displayed"
    return not tells_displayed


def reads_as_stored(source: ImageSource, *, max_pixels: int) -> bool:
    """Tell whether `read_source` reads the stored pixels of an image. Images that no EXIF orientation turns have both.

    Raises:
        StorageError: the disk or the network failed.
    """
    if source.size_hw is None:
        return False
    turn = _turn_of(source, max_pixels)
    return turn == "stored" if turn in ("stored", "displayed") else source.as_stored


def is_turned_within_size(source: ImageSource, *, max_pixels: int) -> bool:
    """Tell whether EXIF turns or mirrors an image so that both orientations have the annotated size.

    Raises:
        StorageError: the disk or the network failed.
    """
    return _turn_of(source, max_pixels) == "either"


def stored_orientation(uri: str, *, max_pixels: int) -> int:
    """Return the EXIF orientation of an image, 1 to 8.

    Raises:
        ImageError, StorageError: see `ImageReader.read`.
    """
    try:
        with _opened(uri, max_pixels) as file, Image.open(file, formats=FORMATS) as image:
            return exif_orientation(image)
    except (OSError, ValueError, Image.DecompressionBombError):
        read_image(uri, max_pixels=max_pixels)  # raises with the reason
        raise


def _turn_of(source: ImageSource, max_pixels: int) -> Turn | None:
    """Tell by its header how an image is turned. None stands for not at all or unknown."""
    return _glance(source, max_pixels, to_its_end=False)[1]


def _glance(source: ImageSource, max_pixels: int, *, to_its_end: bool = True) -> tuple[bool, Turn | None]:
    """Tell by its header, and by its end if asked, whether an image looks sound, and how it is turned.

    The second value is None for an image that is not turned, or if the header tells nothing.
    """
    try:
        with _opened(source.uri, max_pixels) as file, Image.open(file, formats=FORMATS) as image:
            stored_hw, orientation = _stored_size_hw(image), exif_orientation(image)
            turn = _turn(stored_hw, orientation, source.size_hw)
            if isinstance(image, TiffImageFile) or image.width * image.height > max_pixels:
                return False, turn
            fits = source.size_hw == stored_hw or turn == "displayed"
            if not to_its_end:
                return fits, turn
            file.seek(max(0, file.seek(0, io.SEEK_END) - _TAIL_BYTES))
            return fits and _ENDS.get(image.format or "", b"") in file.read(_TAIL_BYTES), turn
    except StorageError:
        raise
    except Exception:
        # Any exception, because the reader of the stages tells what it means.
        return False, None


def _opened(uri: str, max_pixels: int) -> io.BufferedReader | io.BytesIO:
    if split_reference(uri):
        return io.BytesIO(read_image_bytes(uri, max_pixels=max_pixels))
    return io.BufferedReader(StoredFile(uri), _HEADER_BYTES)


def _stored_size_hw(image: Image.Image) -> tuple[int, int]:
    if isinstance(image, TiffImageFile):  # because Pillow gives the size of the displayed image
        return image.tag_v2[_TIFF_HEIGHT], image.tag_v2[_TIFF_WIDTH]
    return image.height, image.width


def _turn(stored_hw: tuple[int, int], orientation: int, size_hw: tuple[int, int] | None) -> Turn | None:
    displayed_hw = stored_hw[::-1] if orientation in range(5, 9) else stored_hw
    if orientation not in range(2, 9) or size_hw not in (stored_hw, displayed_hw):
        return None
    if stored_hw == displayed_hw:
        return "either"
    return "stored" if size_hw == stored_hw else "displayed"
