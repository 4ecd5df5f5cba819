"""The annotated objects of images as JSON text, in an Arrow file that is read by row."""

import json
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylabel.errors import StorageError

OBJECTS = pa.schema([("objects", pa.large_binary())])
"""One row per image: its objects as a JSON list, in the file's order. Nothing else than these bytes is stored."""

ROWS_PER_BATCH = 32
"""Images per record batch. A store is asked for one batch, about 350 kB of LVIS."""

_KEPT_BATCHES = 16
"""Batches of a store that stay in memory."""


class DamagedCopyError(StorageError):
    """A row of a stored file is not what was written."""


class ObjectRows:
    """The objects of the images of one annotation file. Many threads may read.

    Args:
        file: an Arrow file of OBJECTS: a memory map, a buffer, or a file of a store.
        where: the file, for messages.
        is_mapped: whether the file's bytes are in memory or mapped there, so that a batch costs nothing to keep.
        on_damage: called when a row is damaged, before the error is raised.
    """

    def __init__(self, file: Any, *, where: str, is_mapped: bool, on_damage: Callable[[], None] = lambda: None) -> None:
        self._where, self._is_mapped, self._on_damage = where, is_mapped, on_damage
        self._reader = pa.ipc.open_file(file)
        self._batches = OrderedDict[int, pa.LargeBinaryArray]()
        self._lock = threading.Lock()

    def read(self, row: int, checksum: int) -> list[dict[str, Any]]:
        """Return the objects of an image. Raises as `text`."""
        found: list[dict[str, Any]] = json.loads(self.text(row, checksum))
        return found

    def text(self, row: int, checksum: int) -> bytes:
        """Return the objects of an image as a JSON list.

        Raises:
            DamagedCopyError: the bytes do not have this checksum.
        """
        batch, place = divmod(row, ROWS_PER_BATCH)
        text = self._batch(batch)[place].as_buffer()
        if zlib.crc32(text) != checksum:
            self._on_damage()
            raise DamagedCopyError(f"{self._where}: row {row} is damaged. The next start reads the annotations again.")
        content: bytes = text.to_pybytes()
        return content

    def _batch(self, number: int) -> pa.LargeBinaryArray:
        with self._lock:
            batch = self._batches.get(number)
            if batch is None:
                batch = self._batches[number] = self._reader.get_batch(number).column(0)
                if not self._is_mapped and len(self._batches) > _KEPT_BATCHES:
                    self._batches.popitem(last=False)
            return batch


def write_objects(file: Any, texts: Iterable[bytes]) -> NDArray[np.uint32]:
    """Write an Arrow file of OBJECTS from the JSON list of each image's objects. Returns the rows' checksums."""
    checksums, batch = list[int](), list[bytes]()

    def write_batch() -> None:
        writer.write_batch(pa.record_batch([pa.array(batch, pa.large_binary())], schema=OBJECTS))
        batch.clear()

    with pa.ipc.new_file(file, OBJECTS) as writer:
        for text in texts:
            batch.append(text)
            checksums.append(zlib.crc32(text))
            if len(batch) == ROWS_PER_BATCH:
                write_batch()
        if batch:
            write_batch()
    return np.array(checksums, dtype=np.uint32)


def json_list(texts: Iterable[bytes]) -> bytes:
    """Join JSON texts to the text of a list."""
    return b"[" + b",".join(texts) + b"]"


def rows_in_memory(texts: Iterable[bytes]) -> tuple[ObjectRows, NDArray[np.uint32]]:
    """Hold the JSON lists of images' objects in memory. Returns their checksums, too."""
    buffer = pa.BufferOutputStream()
    checksums = write_objects(buffer, texts)
    return ObjectRows(pa.BufferReader(buffer.getvalue()), where="memory", is_mapped=True), checksums
