"""The columns of an annotation file in a folder: `images.arrow`, `objects.arrow` and `set.json`, which is written last.

A folder on a disk is mapped into memory. A folder of a store is read by row: the images whole, and the objects of 32
images at a time when one of them is asked for.
"""

import zlib
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from raylabel.dataset.annotated_set import AnnotatedSet, Category, categories_to_json
from raylabel.dataset.annotation_reading import read_into
from raylabel.dataset.frequency import FrequencyGroup
from raylabel.dataset.image_records import IMAGES, ImageTable, Origin, single_chunk
from raylabel.dataset.object_rows import DamagedCopyError, ObjectRows
from raylabel.errors import InputError
from raylabel.files.file_systems import local_path
from raylabel.files.json_files import commit_json, read_json
from raylabel.files.json_text import checked_as
from raylabel.files.moving import remove
from raylabel.files.paths import join, split
from raylabel.files.reading import exists, file_bytes, read_bytes
from raylabel.files.stored_file import StoredFile

IMAGES_FILE, OBJECTS_FILE, DESCRIPTION_FILE = "images.arrow", "objects.arrow", "set.json"
FILES = (OBJECTS_FILE, IMAGES_FILE, DESCRIPTION_FILE)
"""In the order in which they are written."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """The content of set.json.

    Attributes:
        categories: classes as annotation files have them, sorted by id.
        is_federated: see `AnnotatedSet`.
        folders: whether folders that URLs of images name exist below the images' root. File names depend on it.
        images_bytes, objects_bytes: sizes of the other files.
        images_checksum: CRC-32 of images.arrow.
    """

    categories: list[dict[str, Any]]
    is_federated: bool
    folders: dict[str, bool]
    images_bytes: int
    objects_bytes: int
    images_checksum: int


def write_copy(path: str, images_root: str | None, folder: str) -> None:
    """Read and check an annotation file, and write its columns into a local folder.

    Raises:
        InputError: see `read_annotations`.
    """
    images, objects = Path(folder, IMAGES_FILE), Path(folder, OBJECTS_FILE)
    with pa.OSFile(str(images), "wb") as images_file, pa.OSFile(str(objects), "wb") as objects_file:
        reading = read_into(path, images_root, images_file=images_file, objects_file=objects_file)
    description = Description(
        categories=categories_to_json(reading.categories),
        is_federated=reading.is_federated,
        folders=reading.folders,
        images_bytes=images.stat().st_size,
        objects_bytes=objects.stat().st_size,
        images_checksum=zlib.crc32(images.read_bytes()),
    )
    commit_json(str(Path(folder, DESCRIPTION_FILE)), asdict(description))


def open_copy(folder: str, path: str, images_root: str | None) -> AnnotatedSet:
    """Open the columns of an annotation file.

    Args:
        folder: path or URI of the folder that `write_copy` filled.
        path, images_root: the arguments of `write_copy`.

    Raises:
        DamagedCopyError: a file is missing or is not what was written, or the folders of the images are others now.
    """
    root = split(path)[0] if images_root is None else images_root
    images_uri, objects_uri = join(folder, IMAGES_FILE), join(folder, OBJECTS_FILE)
    try:
        uri = join(folder, DESCRIPTION_FILE)
        description = checked_as(Description, read_json(uri), uri)
        images = _mapped(images_uri) or pa.py_buffer(read_bytes(images_uri))
        is_whole = (
            (images.size, zlib.crc32(images)) == (description.images_bytes, description.images_checksum)
            and file_bytes(objects_uri) == description.objects_bytes
            and all(_has(root, name) == there for name, there in description.folders.items())
        )
        if not is_whole:
            raise DamagedCopyError(f"{folder}: is not what was written")
        columns = single_chunk(pa.ipc.open_file(images).read_all())
        if columns.schema != IMAGES:
            raise DamagedCopyError(f"{folder}: has other columns")
        mapped = _mapped(objects_uri)
        file = StoredFile(objects_uri) if mapped is None else mapped
        # Without its description the copy is made again.
        forget = partial(remove, uri)
        objects = ObjectRows(file, where=objects_uri, is_mapped=mapped is not None, on_damage=forget)
    except (OSError, InputError, pa.ArrowException) as error:
        raise DamagedCopyError(f"{folder}: {error}") from error
    return AnnotatedSet(
        images=ImageTable.of_file(columns, Origin(objects, root)),
        categories=tuple(_category(one) for one in description.categories),
        is_federated=description.is_federated,
    )


def _mapped(uri: str) -> pa.Buffer | None:
    """Map a local file into memory. None for a file of a store."""
    path = local_path(uri)
    if path is None:
        return None
    with pa.memory_map(path) as file:
        return file.read_buffer()


def _has(root: str, name: str) -> bool:
    return bool(name) and exists(join(root, name))


def _category(one: dict[str, Any]) -> Category:
    frequency = one.get("frequency")
    return Category(
        category_id=one["id"], name=one["name"], frequency=None if frequency is None else FrequencyGroup(frequency)
    )
