"""Headers of annotated images, a few kilobytes each: soundness, orientation, and digests of contents."""

import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from raylabel.dataset.containers import split_reference
from raylabel.dataset.content import HEAD_BYTES, TAIL_BYTES, Contents, content_digest, digest_of_ends
from raylabel.dataset.image_records import ImageRecord, ImageTable
from raylabel.dataset.image_source import ImageSource, decode_source
from raylabel.dataset.images import FORMATS, ImageError, exif_orientation, read_content, read_image
from raylabel.errors import InputError, StorageError, some_of
from raylabel.files.stored_file import StoredFile
from raylabel.threads import READING_THREADS, map_on_threads

NUM_TELLING = 1000
"""Largest number of headers that tell how a file annotates images."""

_BUFFER_BYTES = 1 << 16
_ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
"""Bytes near the end of a whole file. Other formats have no such mark."""
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257

Turn = Literal["stored", "displayed", "either"]
"""The orientation of an image's annotations: one, or either if both have the annotated size."""


TURNS: tuple[Turn | None, ...] = (None, "stored", "displayed", "either")
"""Turns by the numbers that `Headers` hold."""


@dataclass(frozen=True, kw_only=True)
class Headers:
    """What the headers of N images tell, row by row. Rows that are not sound hold zeros.

    Attributes:
        is_sound: (N,) whether the image is one of its annotated size.
        sizes: (N,) int64 sizes of the files in bytes.
        digests: (N,) uint64 digests of the contents.
        turns: (N,) int8 places in TURNS.
    """

    is_sound: NDArray[np.bool_]
    sizes: NDArray[np.int64]
    digests: NDArray[np.uint64]
    turns: NDArray[np.int8]

    @staticmethod
    def unknown(num: int) -> "Headers":
        """Return the headers of images that nobody has looked at."""
        return Headers(
            is_sound=np.zeros(num, bool),
            sizes=np.zeros(num, np.int64),
            digests=np.zeros(num, np.uint64),
            turns=np.zeros(num, np.int8),
        )


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What the headers of annotated images tell.

    Attributes:
        unusable: images that a stage would refuse, with its reason for each.
        contents: the contents of the other images, by their file names.
        sizes: sizes in bytes that these images have, sorted.
        turns: number of these images that an EXIF orientation turns or mirrors, by the orientation of their
            annotations.
        headers: what the header of each image tells.
    """

    unusable: list[tuple[ImageRecord, str]]
    contents: Contents
    sizes: NDArray[np.int64]
    turns: Counter[Turn]
    headers: Headers

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


def examine_images(
    images: Sequence[ImageRecord],
    *,
    max_pixels: int,
    thorough: bool = False,
    known: Headers | None = None,
    on_image: Callable[[int], None],
) -> Examined:
    """Find the images that a stage would refuse; the digests of the others' contents; and those that EXIF turns.

    A header of the right size at the start of a file that ends as its format does is enough. Any other image is read
    whole by the decoder of the stages, so the reasons are the same. Damage in the middle of a file shows only in its
    pixels.

    Args:
        images: annotated images.
        max_pixels: see `read_image`.
        thorough: read the pixels of every image.
        known: what is known of the images. Those that are sound are not read, unless all pixels are.
        on_image: called after each image with the number of images so far.

    Raises:
        StorageError: the disk or the network failed.
    """

    def examine(image: ImageRecord) -> _Glance | str:
        source = image.source
        seen = _glance(source, max_pixels)
        if not thorough and seen.is_sound and seen.file is not None:
            return seen
        try:
            content = read_content(source.uri, max_pixels=max_pixels)
            decode_source(content, source, max_pixels=max_pixels)
        except ImageError as error:
            return str(error)
        return seen._replace(file=(len(content), content_digest(content)))

    found = Headers.unknown(len(images)) if known is None or thorough else known
    rows = np.flatnonzero(~found.is_sound).tolist()
    is_sound, sizes, digests, turns = (one.copy() for one in vars(found).values())
    unusable = list[tuple[ImageRecord, str]]()
    to_read = images if len(rows) == len(images) else [images[row] for row in rows]
    num_known = len(images) - len(rows)
    for place, seen in enumerate(map_on_threads(examine, to_read, num_threads=READING_THREADS)):
        on_image(num_known + place + 1)
        if isinstance(seen, str):
            unusable.append((images[rows[place]], seen))
            continue
        row = rows[place]
        is_sound[row], turns[row] = True, TURNS.index(seen.turn)
        sizes[row], digests[row] = seen.file or (0, 0)
    names = images.file_names() if isinstance(images, ImageTable) else [image.file_name for image in images]
    numbers = Counter(turns[is_sound].tolist())
    return Examined(
        unusable=unusable,
        contents=Contents.of(digests[is_sound], list(compress(names, is_sound.tolist()))),
        sizes=np.unique(sizes[is_sound]),
        turns=Counter({turn: numbers[number] for number, turn in enumerate(TURNS) if turn and numbers[number]}),
        headers=Headers(is_sound=is_sound, sizes=sizes, digests=digests, turns=turns),
    )


def unusable_images(name: str, unusable: Sequence[tuple[ImageRecord, str]], num_images: int) -> InputError:
    """Return the error that names the images of a split that a stage would refuse, and why.

    Args:
        name: the split's name in the config.
        unusable: see `Examined`.
        num_images: number of images of the split.
    """
    if len(unusable) == 1:
        [(image, why)] = unusable
        return InputError(f"data.{name}: {image.uri}: {why}")
    named = some_of([f"{image.uri} ({why})" for image, why in unusable])
    return InputError(f"data.{name}: {len(unusable)} of {num_images} images can't be used: {named}")


class Orientation(NamedTuple):
    """The orientation in which a file annotates images.

    Attributes:
        as_stored: whether it annotates stored pixels.
        is_sure: whether another look at the same files would tell the same. Otherwise a header could not be read.
    """

    as_stored: bool
    is_sure: bool


def are_annotated_as_stored(sources: Sequence[ImageSource], *, max_pixels: int) -> bool:
    """Tell whether a file annotates stored pixels; see `find_orientation`."""
    return find_orientation(sources, max_pixels=max_pixels).as_stored


def find_orientation(sources: Sequence[ImageSource], *, max_pixels: int) -> Orientation:
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
    tells_displayed, is_sure = False, True
    glance = partial(_glance, max_pixels=max_pixels, to_its_end=False)
    for seen in map_on_threads(glance, telling, num_threads=READING_THREADS):
        if seen.turn == "stored":
            return Orientation(True, True)
        tells_displayed |= seen.turn == "displayed"
        is_sure &= seen.is_read
    return Orientation(not tells_displayed, is_sure)


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
    return _glance(source, max_pixels, to_its_end=False).turn


class _Glance(NamedTuple):
    """What the header and the end of a file tell.

    Attributes:
        is_read: whether the header could be read.
        is_sound: whether it looks like a whole image of the annotated size.
        turn: None for an image that is not turned, or if the header tells nothing.
        file: the file's size in bytes and the digest of its content. None if the content must be read whole for it.
    """

    is_read: bool = False
    is_sound: bool = False
    turn: Turn | None = None
    file: tuple[int, int] | None = None


def _glance(source: ImageSource, max_pixels: int, *, to_its_end: bool = True) -> _Glance:
    """Look at an image's header, and at its end if asked."""
    try:
        with _opened(source.uri, max_pixels) as file:
            head = file.read(HEAD_BYTES)
            file.seek(0)
            with Image.open(file, formats=FORMATS) as image:
                stored_hw, orientation = _stored_size_hw(image), exif_orientation(image)
                turn = _turn(stored_hw, orientation, source.size_hw)
                if isinstance(image, TiffImageFile) or image.width * image.height > max_pixels or not to_its_end:
                    return _Glance(is_read=True, turn=turn)
                end_mark = _ENDS.get(image.format or "", b"")
                num_bytes = file.seek(0, io.SEEK_END)
                file.seek(max(0, num_bytes - TAIL_BYTES))
                tail = file.read(TAIL_BYTES)
        fits = source.size_hw == stored_hw or turn == "displayed"
        digest = digest_of_ends(num_bytes, head, tail)
        return _Glance(True, fits and end_mark in tail, turn, None if digest is None else (num_bytes, digest))
    except StorageError:
        raise
    except Exception:
        # Any exception, because the reader of the stages tells what it means.
        return _Glance()


def _opened(uri: str, max_pixels: int) -> io.BufferedReader | io.BytesIO:
    if split_reference(uri):
        return io.BytesIO(read_content(uri, max_pixels=max_pixels))
    return io.BufferedReader(StoredFile(uri), _BUFFER_BYTES)


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
