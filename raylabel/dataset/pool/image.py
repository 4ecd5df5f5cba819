"""An image of the pool, and what the listing alone says against reading it."""

import posixpath
from dataclasses import dataclass

from raylabel.files import storage

NOT_UTF8 = "name is not UTF-8"
OUTSIDE = "outside of the pool"

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True, slots=True)
class PoolImage:
    """An image of the pool.

    Attributes:
        image_id: unique in the pool.
        uri: path or URI, `file.tar#member` or `file.parquet#row`; see `ImageReader`.
        refusal: why it must not be read, None where it may be. Such an image gets a row as any other, with the refusal
            as its status.
    """

    image_id: str
    uri: str
    refusal: str | None = None


def image_below(root: str, relative: str, *, uri: str | None = None, image_id: str | None = None) -> PoolImage:
    """The image of this relative path below a root, with the path as its id unless another is given.

    Args:
        root: folder, or a container whose member the path is.
        relative: the path; lone surrogates stand for bytes that are not UTF-8.
        uri: where it is, in place of the path below the root; for members of containers.
        image_id: in place of the path.
    """
    text, refusal = printable(relative), None
    if text != relative:
        refusal = NOT_UTF8
    elif climbs_out(relative):
        refusal = OUTSIDE
    return PoolImage(
        text if image_id is None else image_id, printable(uri) if uri else storage.join(root, text), refusal
    )


def printable(text: str) -> str:
    """The same text where UTF-8 can hold it, else with what it can't hold escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def climbs_out(relative: str) -> bool:
    """Whether a path leads out of the folder that it is relative to."""
    return posixpath.isabs(relative) or posixpath.normpath(relative).split("/", 1)[0] == ".."
