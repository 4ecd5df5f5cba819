"""An image of the pool, and the reasons in its path alone to refuse it."""

from dataclasses import dataclass, field

from raylabel.dataset.image_source import ImageSource
from raylabel.files.paths import climbs_out, join

NOT_UTF8 = "name is not UTF-8"
OUTSIDE = "outside of the pool"

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True, slots=True)
class PoolImage:
    """An image of the pool.

    Attributes:
        image_id: id of the image, unique in the pool.
        uri: path or URI, `file.tar#member` or `file.parquet#row`; see `ImageReader`.
        refusal: reason why the image must not be read, or None. A refused image also gets a row, with the refusal as
            its status.
        height, width: size in pixels in the annotations of the image, None without them.
        as_stored: the orientation of these annotations if the size alone does not decide; see `ImageSource`.
        num_bytes: size of the encoded image, if the listing tells it. Manifests do not keep it.
    """

    image_id: str
    uri: str
    refusal: str | None = None
    height: int | None = None
    width: int | None = None
    as_stored: bool = False
    num_bytes: int | None = field(default=None, compare=False)

    @property
    def source(self) -> ImageSource:
        """The image in the orientation of its annotations. Without them it is turned as viewers show it."""
        size_hw = None if self.height is None or self.width is None else (self.height, self.width)
        return ImageSource(self.uri, size_hw, self.as_stored)


def image_below(
    root: str, relative: str, *, uri: str | None = None, image_id: str | None = None, num_bytes: int | None = None
) -> PoolImage:
    """Make the image at a relative path below a root. The path is its id unless another id is given.

    Args:
        root: folder, or the container that has the path as a member.
        relative: the path. Lone surrogates stand for bytes that are not UTF-8.
        uri: URI of the image, for members of containers; the path below the root if None.
        image_id: id of the image; the path if None.
        num_bytes: see PoolImage.
    """
    text, refusal = printable(relative), None
    if text != relative:
        refusal = NOT_UTF8
    elif climbs_out(relative):
        refusal = OUTSIDE
    return PoolImage(
        text if image_id is None else image_id,
        printable(uri) if uri else join(root, text),
        refusal,
        num_bytes=num_bytes,
    )


def is_image_name(name: str) -> bool:
    """Tell by its suffix whether a file is an image. The case does not matter."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def printable(text: str) -> str:
    """Escape the characters of a text that UTF-8 cannot hold."""
    return text.encode("utf-8", "backslashreplace").decode()
