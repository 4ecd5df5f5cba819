"""Small pools whose images tell their number by their colour."""

import io
import tarfile

from PIL import Image

from raylabel.dataset.images import ImageReader
from raylabel.dataset.pool.listing import iter_pool

NAMES = ["a.png", "b.PNG", "sub/a.png", "sub/deep/c d.png"]


def png(value):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def add_member(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def list_pool(uri):
    """Images of the pool, sorted as in the shard manifest."""
    return sorted(iter_pool(uri), key=lambda image: image.image_id)


def values(images):
    reader = ImageReader(max_pixels=100)
    return [int(reader.read(image.uri)[0, 0, 0]) for image in images]


def ids(images):
    return [image.image_id for image in images]
