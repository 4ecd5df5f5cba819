"""Texts of unknown number in a temporary file."""

import os
import tempfile
from array import array
from types import TracebackType

import numpy as np
from numpy.typing import NDArray


class TextSpool:
    """Texts that are appended one by one, and then read in any order. Memory holds 8 bytes per text.

    Use it in a `with` statement, which removes the file.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # the `with` of a spool closes it
        self._ends = array("q")
        self._num_bytes = 0

    def __enter__(self) -> "TextSpool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._ends)

    def append(self, text: str) -> None:
        """Add a text."""
        content = text.encode()
        self._file.write(content)
        self._num_bytes += len(content)
        self._ends.append(self._num_bytes)

    def read(self, place: int) -> bytes:
        """Return one text, encoded as UTF-8."""
        [text] = self.read_many(np.array([place]))
        return text

    def read_many(self, places: NDArray[np.int64]) -> list[bytes]:
        """Return the texts at these places, in their order."""
        self._file.flush()
        number, ends = self._file.fileno(), self._ends
        texts = []
        for place in places.tolist():
            start = ends[place - 1] if place else 0
            texts.append(os.pread(number, ends[place] - start, start))
        return texts
