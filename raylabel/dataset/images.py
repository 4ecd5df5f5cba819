"""Decoding of images. An image that cannot be decoded raises an error with a short reason."""

import errno
import io
import logging
import re
import warnings
from contextlib import suppress
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from raylabel.dataset.containers import ContainerReader, MissingMemberError, possible_references
from raylabel.dataset.image_errors import ImageError
from raylabel.errors import InputError
from raylabel.files.reading import SpecialFileError, TooLargeError, read_bytes
from raylabel.redaction import redacted

__all__ = ["ImageError", "ImageReader", "decode_image", "read_image"]

# Not all of Pillow's formats, because some start other programs (EPS) or have rarely tested decoders.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
# Limited because each scan of a progressive JPEG visits all pixels, and a scan of a few bytes suffices. 500 scans keep
# a CPU busy for 20 seconds, and 50,000 scans fit into 3 MB. Encoders write about ten.
MAX_JPEG_SCANS = 100
# An image file has at most this many bytes per pixel of `max_pixels`, and this many others: the largest pixels are four
# channels of 16 bits, uncompressed.
_BYTES_PER_PIXEL, _OTHER_BYTES = 8, 16 * 2**20
_STRIP_PIXELS = 2**20

# A pool of millions has many odd files. Pillow's warnings are silenced, because each reason already tells the fault.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)


def decode_image(content: bytes, *, max_pixels: int, as_displayed: bool = False) -> NDArray[np.uint8]:
    """Decode the first frame of an image to RGB, shape (H, W, 3) uint8.

    16 bits per channel become 8. Transparent pixels are blended with white. Colour profiles are not applied.

    Args:
        content: a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file.
        max_pixels: largest number of pixels. Larger images are refused by their header, before decoding. Pillow itself
            refuses more than about 179 million pixels.
        as_displayed: whether the image is turned by its EXIF orientation, as viewers show it. Otherwise the pixels stay
            as stored; COCO and LVIS annotate the stored pixels.

    Raises:
        ImageError: "zero bytes", "not an image", "too large", "truncated", "unsupported" or "corrupt"; see
            `image_errors.REASONS`.
    """
    if not content:
        raise ImageError("zero bytes")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_effort(image, content, max_pixels)
            return opened_pixels(image, as_displayed=as_displayed)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("not an image") from None
    except Image.DecompressionBombError as error:
        [num_pixels] = re.findall(r"\d+(?= pixels\))", str(error)) or ["too many"]
        raise ImageError(f"too large: {num_pixels} pixels") from None
    except MemoryError:
        raise ImageError("too large: not enough memory") from None
    except Exception as error:
        # Any exception, because decoders raise many kinds of errors on damaged content.
        words = " ".join(str(error).split()) or type(error).__name__
        is_truncated = isinstance(error, EOFError) or "truncated" in words.lower()
        raise ImageError("truncated" if is_truncated else f"corrupt: {words}") from None


def opened_pixels(image: Image.Image, *, as_displayed: bool) -> NDArray[np.uint8]:
    """Return the pixels of an image that Pillow has opened, (H, W, 3) uint8 RGB; see `decode_image`.

    Raises:
        ImageError: "unsupported". Pillow itself raises many kinds of errors on damaged content.
    """
    orientation = exif_orientation(image)  # by the header: Pillow finds what a PNG says behind its pixels later
    pixels_HW3 = _rgb(image)
    if isinstance(image, TiffImageFile):
        # Turned back unless displayed, because Pillow has already turned a TIFF.
        return pixels_HW3 if as_displayed else turned(pixels_HW3, _INVERSE.get(orientation, orientation))
    return turned(pixels_HW3, orientation) if as_displayed else pixels_HW3


def read_image(uri: str, *, max_pixels: int, as_displayed: bool = False) -> NDArray[np.uint8]:
    """Read and decode one image; see `ImageReader.read`. The containers read last stay open."""
    return _reader(max_pixels).read(uri, as_displayed=as_displayed)


def read_content(uri: str, *, max_pixels: int) -> bytes:
    """Read one encoded image; see `ImageReader.read_bytes`. The containers read last stay open."""
    return _reader(max_pixels).read_bytes(uri)


@lru_cache(maxsize=2)
def _reader(max_pixels: int) -> "ImageReader":
    return ImageReader(max_pixels=max_pixels)


class ImageReader:
    """Reader of images that several threads may share. The tar and Parquet files read last stay open.

    Args:
        max_pixels: see `decode_image`.
    """

    def __init__(self, *, max_pixels: int) -> None:
        self.max_pixels = max_pixels
        self._containers = ContainerReader()

    def read(self, uri: str, *, as_displayed: bool = False) -> NDArray[np.uint8]:
        """Read and decode an image: a path or URI of a file, `file.tar#member` or `file.parquet#row`.

        Returns:
            (H, W, 3) uint8 RGB; see `decode_image`.

        Raises:
            ImageError: see `image_errors.REASONS`.
            StorageError: the disk or the network failed; the image may be sound.
        """
        return decode_image(self.read_bytes(uri), max_pixels=self.max_pixels, as_displayed=as_displayed)

    def read_bytes(self, uri: str) -> bytes:
        """Read the encoded image. Raises the same errors as `read`."""
        max_bytes = _BYTES_PER_PIXEL * self.max_pixels + _OTHER_BYTES
        try:
            for reference in possible_references(uri):
                with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError, MissingMemberError):
                    return self._containers.read(*reference, max_bytes=max_bytes)
            return read_bytes(uri, max_bytes=max_bytes)
        except TooLargeError as error:
            raise ImageError(f"too large: {error}") from None
        except IsADirectoryError:
            raise ImageError("is a folder") from None
        except SpecialFileError:
            raise ImageError("not a file") from None
        except (FileNotFoundError, NotADirectoryError):
            raise ImageError("missing") from None
        except PermissionError:
            raise ImageError("no permission") from None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
                raise ImageError("missing") from None
            raise
        except (InputError, ValueError) as error:  # an unknown scheme; a zero byte or a lone surrogate in a name
            raise ImageError(f"unreadable URI: {redacted(' '.join(str(error).split()))}") from None


def _check_effort(image: Image.Image, content: bytes, max_pixels: int) -> None:
    """Refuse an image whose header announces too much memory or time."""
    width, height = image.size
    if width * height > max_pixels:
        size = f"{width} x {height} pixels (width x height)"
        raise ImageError(f"too large: {size}, data.max_image_pixels is {max_pixels:,}")
    if isinstance(image, TiffImageFile):
        tile_width, tile_height = (image.tag_v2.get(tag, 1) for tag in (_TILE_WIDTH, _TILE_LENGTH))
        if tile_width * tile_height > max(max_pixels, 2**20):
            raise ImageError(f"too large: {tile_width} x {tile_height} pixels a tile (width x height)")
    if image.format in ("JPEG", "MPO") and (num_scans := content.count(b"\xff\xda")) > MAX_JPEG_SCANS:
        raise ImageError(f"too large: {num_scans} scans")


_TILE_WIDTH, _TILE_LENGTH = 322, 323


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode in ("F", "LAB", "HSV"):
        raise ImageError(f"unsupported: pixels of mode {image.mode}")
    image.load()
    width, height = image.size
    pixels_HW3 = np.empty((height, width, 3), np.uint8)
    # In strips, because blending and 16-bit grey take up to 24 bytes per pixel.
    num_rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, num_rows):
        bottom = min(top + num_rows, height)
        pixels_HW3[top:bottom] = _strip_rgb(image.crop((0, top, width, bottom)))
    return pixels_HW3


def _strip_rgb(strip: Image.Image) -> NDArray[np.uint8]:
    if strip.mode.startswith("I"):
        # By hand, because Pillow would clip 16-bit grey at 255.
        gray = (np.asarray(strip).astype(np.int64).clip(0, 65535) // 257).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if strip.has_transparency_data:
        page = Image.new("RGBA", strip.size, "white")
        strip = Image.alpha_composite(page, strip.convert("RGBA"))
    return np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))


def exif_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an opened image, 1 to 8; 1 if it is missing or unreadable.

    From 5 on, width and height of the displayed image are exchanged.
    """
    try:
        if isinstance(image, TiffImageFile):
            return image.tag_v2.get(ExifTags.Base.Orientation, 1)
        exif = Image.Exif()
        exif.load(image.info.get("exif", b""))
        return exif.get(ExifTags.Base.Orientation, 1)
    except Exception:
        # Any exception, because Pillow raises many kinds on a damaged EXIF block. Viewers show such an image all the
        # same.
        return 1


_INVERSE = {6: 8, 8: 6}


_Value = TypeVar("_Value", bound=np.generic)


def turned(pixels_HWC: NDArray[_Value], orientation: int) -> NDArray[_Value]:
    """Turn stored pixels, or masks as channels, with this EXIF orientation into the displayed pixels."""
    turns = {
        2: lambda: pixels_HWC[:, ::-1],
        3: lambda: pixels_HWC[::-1, ::-1],
        4: lambda: pixels_HWC[::-1],
        5: lambda: pixels_HWC.transpose(1, 0, 2),
        6: lambda: np.rot90(pixels_HWC, -1),
        7: lambda: pixels_HWC[::-1, ::-1].transpose(1, 0, 2),
        8: lambda: np.rot90(pixels_HWC),
    }
    return np.ascontiguousarray(turns[orientation]()) if orientation in turns else pixels_HWC
