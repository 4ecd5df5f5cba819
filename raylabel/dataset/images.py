"""Decoding images: what cannot be decoded gives a short reason instead."""

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pyarrow import fs

from raylabel import storage
from raylabel.dataset.containers import ContainerReader, split_reference
from raylabel.dataset.image_errors import ImageError

__all__ = ["ImageError", "ImageReader", "decode_image", "read_image"]

# Not all of Pillow's: some formats start other programs (EPS) or are decoded by rarely tested code.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
# What Pillow's decoders raise on damaged content.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError, KeyError, TypeError,
            OverflowError)  # fmt: skip


def decode_image(content: bytes, *, max_pixels: int) -> NDArray[np.uint8]:
    """Decode to RGB, shape (H, W, 3) uint8: the first frame, without alpha; 16 bits a channel become 8.

    The pixels stay as they are stored: EXIF orientation is not applied, as COCO and LVIS annotate stored pixels.

    Args:
        content: a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file.
        max_pixels: larger images are refused by their header, before they are decoded; Pillow itself refuses more
            than about 179 million.

    Raises:
        ImageError: "zero bytes", "not an image", "too large: W x H pixels", "truncated", or "corrupt: ..." with
            Pillow's words.
    """
    if not content:
        raise ImageError("zero bytes")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError(f"too large: {width} x {height} pixels")
            return _rgb(image)
    except UnidentifiedImageError:
        raise ImageError("not an image") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"too large: {error}") from None
    except _DAMAGED as error:
        words = " ".join(str(error).split())
        is_truncated = isinstance(error, EOFError) or "truncated" in words.lower()
        raise ImageError("truncated" if is_truncated else f"corrupt: {words}") from None


def read_image(uri: str, *, max_pixels: int) -> NDArray[np.uint8]:
    """Read and decode one image; see `ImageReader.read`."""
    return ImageReader(max_pixels=max_pixels).read(uri)


class ImageReader:
    """Reads images one after another; the tar or Parquet file that was read last stays indexed.

    Args:
        max_pixels: as of `decode_image`.
    """

    def __init__(self, *, max_pixels: int) -> None:
        self.max_pixels = max_pixels
        self._containers = ContainerReader()

    def read(self, uri: str) -> NDArray[np.uint8]:
        """Read and decode an image: a file's path or URI, `file.tar#member` or `file.parquet#row`.

        Returns:
            (H, W, 3) uint8 RGB.

        Raises:
            ImageError: "missing", "no permission", "is a folder", or as of `decode_image`.
            OSError: the disk or the network failed, which says nothing of the image.
        """
        return decode_image(self.read_bytes(uri), max_pixels=self.max_pixels)

    def read_bytes(self, uri: str) -> bytes:
        """The encoded image; raises as `read` does."""
        reference = split_reference(uri)
        try:
            if reference:
                return self._containers.read(*reference)
            return storage.read_bytes(uri)
        except (FileNotFoundError, NotADirectoryError):
            raise ImageError("missing") from None
        except PermissionError:
            raise ImageError("no permission") from None
        except OSError:
            if _is_folder(uri):
                raise ImageError("is a folder") from None
            raise


def _is_folder(uri: str) -> bool:
    file_system, path = storage.open_uri(uri)
    return file_system.get_file_info(path).type == fs.FileType.Directory


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode == "F":
        raise ImageError("corrupt: pixels are floating-point numbers")
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit grey at 255.
        gray = (np.asarray(image).astype(np.int64).clip(0, 65535) // 257).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.mode == "P":
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))
