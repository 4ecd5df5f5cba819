"""Random access to a file on a disk or in an object store, for readers that need parts of it."""

import errno
import io
import os
from typing import Any

import pyarrow as pa
from pyarrow import fs

from raylabel.files.file_systems import open_uri
from raylabel.files.retries import retried


class StoredFile(io.RawIOBase):
    """A file with random access, whose single reads are retried. Many threads may call `read_at`.

    Args:
        uri: local path or URI.

    Raises:
        FileNotFoundError, IsADirectoryError, StorageError: see `reading.read_bytes`.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._position = 0
        self._file = self._open()
        self.num_bytes: int = self._file.size()

    def _open(self) -> pa.NativeFile:
        file_system, path = open_uri(self._uri)
        if isinstance(file_system, fs.LocalFileSystem) and os.path.isdir(path):
            # Because pyarrow's error has no number, and would be taken for a failing disk.
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return retried(lambda: file_system.open_input_file(path), uri=self._uri, doing="read")

    def read_at(self, num_bytes: int, offset: int) -> bytes:
        """Read `num_bytes` bytes from `offset` on; fewer only at the end of the file."""
        is_first = True

        def read() -> bytes:
            nonlocal is_first
            if not is_first:
                self._file = self._open()
            is_first = False
            return self._file.read_at(num_bytes, offset)

        return retried(read, uri=self._uri, doing="read")

    def readinto(self, buffer: Any) -> int:
        """See io.RawIOBase."""
        content = self.read_at(len(buffer), self._position)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def readable(self) -> bool:
        """See io.IOBase."""
        return True

    def seekable(self) -> bool:
        """See io.IOBase."""
        return True

    def tell(self) -> int:
        """See io.IOBase."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See io.IOBase."""
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.num_bytes}[whence]
        return self._position

    def close(self) -> None:
        """See io.IOBase."""
        if not self.closed:
            self._file.close()
        super().close()
