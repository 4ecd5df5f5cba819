"""JSON as a stream: the elements of the lists of a file, one by one, in memory that does not grow with the file.

The text is read as `parse_json` reads it: the same encodings, the same NaN, the same refusals in one line.
"""

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, BinaryIO, NamedTuple

from raylabel.errors import InputError, shown
from raylabel.files.json_text import DECODER, GZIP, check_unicode

CHUNK = 1 << 20
"""Characters that are read at once. An element that is longer is read in ever larger pieces."""

_LONGEST_LITERAL = 16
"""Where a text is cut, an error lies no further from its end than this, for instance in -Infinity or \\ud83d\\ude00."""

_LONGEST_CUT = 2
"""A number may go on after this many characters that no longer belong to it where the text is cut: 1e+, 1."""


class Element(NamedTuple):
    """A value of a JSON file.

    Attributes:
        name: the key of the top-level object under which it lies. None in a file that is a list.
        value: the parsed value: an element of the list, or the whole value where the key holds no list.
        text: its text in the file.
        is_element: whether the value is an element of a list.
    """

    name: str | None
    value: Any
    text: str
    is_element: bool


def iter_elements(file: BinaryIO, where: str) -> Iterator[Element]:
    """Yield the elements of the top-level list, or those of every list in the top-level object, in the file's order.

    A value of the top-level object that is no list comes whole. So does an empty list, because no element tells that it
    is there. A top-level value that is neither a list nor an object comes whole, too, without a name.

    Args:
        file: UTF-8, UTF-16 or UTF-32 text, with or without a byte order mark, also compressed with gzip.
        where: the file, for messages.

    Raises:
        InputError: see `parse_json`. What was yielded before may come from a file that is not whole.
    """
    with named_faults(where):
        yield from _Scanner(text_of(file)).elements()


@contextmanager
def named_faults(where: str) -> Iterator[None]:
    """Turn what reading JSON text raises into one line that names the file.

    Raises:
        InputError: see `parse_json`.
    """
    try:
        yield
    except InputError:
        raise
    except RecursionError:
        raise InputError(f"{where}: not usable JSON: lists or objects are nested too deeply") from None
    except _EmptyError:
        raise InputError(f"{where}: not JSON: it is empty") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{where}: not readable as gzip: {error}") from error
    except UnicodeError as error:
        raise InputError(f"{where}: not JSON: its text is not Unicode: {error}") from error
    except ValueError as error:
        raise InputError(f"{where}: not JSON: {error}") from error


class _EmptyError(Exception):
    """A text without a value."""


def text_of(file: BinaryIO) -> io.TextIOBase:
    """Return the text of a file of any encoding of `iter_elements`, with its byte order mark if it has one."""
    bytes_in: IO[bytes] = io.BufferedReader(file, CHUNK) if isinstance(file, io.RawIOBase) else file
    start = _peek(bytes_in, 4)
    if start.startswith(GZIP):
        bytes_in = io.BufferedReader(gzip.GzipFile(fileobj=bytes_in), CHUNK)
        start = _peek(bytes_in, 4)
    return io.TextIOWrapper(bytes_in, encoding=json.detect_encoding(start), newline="")


def _peek(file: IO[bytes], num_bytes: int) -> bytes:
    start = file.read(num_bytes)
    file.seek(0)
    return start


class _Scanner:
    """Reads the structure of the top level by hand, and each element by json's decoder."""

    def __init__(self, text: io.TextIOBase) -> None:
        self._file = text
        self._text, self._place, self._is_whole = "", 0, False
        self._chars_before, self._lines_before, self._column_before = 0, 0, 0
        self._fill()
        if self._text.startswith("\ufeff"):
            self._text = self._text[1:]

    def elements(self) -> Iterator[Element]:
        first = self._next()
        if not first:
            raise _EmptyError
        if first == "{":
            yield from self._members()
        elif first == "[":
            yield from self._listed(None)
        else:
            yield self._value(None, is_element=False)
        if self._next():
            raise self._error("Extra data")

    def _members(self) -> Iterator[Element]:
        self._place += 1
        names = set[str]()
        if self._next() == "}":
            self._place += 1
            return
        while True:
            if self._next() != '"':
                raise self._error("Expecting property name enclosed in double quotes")
            name = self._value(None, is_element=False).value
            if name in names:
                raise ValueError(f"the key {shown(name)} is given twice in one object")
            names.add(name)
            if self._next() != ":":
                raise self._error("Expecting ':' delimiter")
            self._place += 1
            if self._next() == "[":
                yield from self._listed(name)
            else:
                yield self._value(name, is_element=False)
            if self._ends_with("}"):
                return

    def _listed(self, name: str | None) -> Iterator[Element]:
        self._place += 1
        if self._next() == "]":
            self._place += 1
            yield Element(name, [], "[]", is_element=False)
            return
        while True:
            yield self._value(name, is_element=True)
            if self._ends_with("]"):
                return

    def _ends_with(self, end: str) -> bool:
        """Step over a comma or the end, and tell which."""
        mark = self._next()
        if mark not in (",", end) or not mark:
            raise self._error("Expecting ',' delimiter")
        self._place += 1
        return mark == end

    def _next(self) -> str:
        """Step over white space, and return the next character without stepping over it. Empty at the end."""
        while True:
            while self._place < len(self._text):
                char = self._text[self._place]
                if char not in " \t\n\r":
                    return char
                self._place += 1
            if self._is_whole:
                return ""
            self._fill()

    def _value(self, name: str | None, *, is_element: bool) -> Element:
        self._next()
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._place)
                if self._is_whole or len(self._text) - end > _LONGEST_CUT:
                    break
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated string") or len(self._text) - error.pos < _LONGEST_LITERAL
                if self._is_whole or not is_cut:
                    self._place = error.pos
                    raise self._error(error.msg) from None
            self._fill()
        text, self._place = self._text[self._place : end], end
        check_unicode(value, text)
        return Element(name, value, text, is_element)

    def _fill(self) -> None:
        """Forget the text before the place, and read on."""
        done, rest = self._text[: self._place], self._text[self._place :]
        self._chars_before += len(done)
        if (lines := done.count("\n")) > 0:
            self._lines_before, self._column_before = self._lines_before + lines, 0
        self._column_before += len(done) - (done.rfind("\n") + 1)
        more = self._file.read(max(CHUNK, len(rest)))
        self._text, self._place, self._is_whole = rest + more, 0, not more

    def _error(self, message: str) -> ValueError:
        done = self._text[: self._place]
        lines, column = done.count("\n"), len(done) - (done.rfind("\n") + 1)
        line = self._lines_before + lines + 1
        column += 1 if lines else self._column_before + 1
        return ValueError(f"{message}: line {line} column {column} (char {self._chars_before + len(done)})")
