"""The text of a JSON list, or of JSON lines, in pieces of whole elements. Other processes can parse them.

Cutting looks at the ends of a piece only, so it is as fast as reading. What it cuts is right if every piece parses:
a piece that ends within a string, a list or an object never does. `json_stream` reads what does not parse, and says
where the fault lies.
"""

import io
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from raylabel.files.json_stream import text_of
from raylabel.files.json_text import DECODER, check_unicode

CHUNK = 1 << 22
"""Characters of a piece. An element that is longer makes a longer piece."""

_BEFORE = re.compile(r"\}[ \t\n\r]*,[ \t\n\r]*\Z")
_LONGEST_GAP = 64
"""Characters between two objects of a list, at most, where it is cut."""


def list_pieces(file: BinaryIO) -> Iterator[str]:
    """Yield the elements of the top-level list as text, many at once, for `parse_list_piece`.

    Args:
        file: see `json_stream.iter_elements`.

    Raises:
        ValueError: the text is not a list of objects, or is not written in a way that can be cut.
    """
    text = text_of(file)
    rest = _past_mark(text)
    if not rest.startswith("["):
        raise ValueError("the text does not begin with a list")
    rest = rest[1:]
    while more := text.read(max(CHUNK, len(rest))):
        rest += more
        if cut := _last_cut(rest):
            yield rest[: cut[0]]
            rest = rest[cut[1] :]
    rest = rest.rstrip(" \t\n\r")
    if not rest.endswith("]"):
        raise ValueError("the text does not end with the list")
    if rest[:-1].strip(" \t\n\r"):
        yield rest[:-1]


def line_pieces(file: BinaryIO) -> Iterator[str]:
    """Yield whole lines as text, many at once, for `parse_lines`. See `list_pieces`."""
    text = text_of(file)
    rest = _past_mark(text)
    while more := text.read(max(CHUNK, len(rest))):
        rest += more
        if (cut := rest.rfind("\n") + 1) > 0:
            yield rest[:cut]
            rest = rest[cut:]
    if rest:
        yield rest


def parse_list_piece(piece: str) -> list[Any]:
    """Parse what `list_pieces` yields.

    Raises:
        ValueError, RecursionError: it is not sound.
    """
    found: list[Any] = DECODER.decode(f"[{piece}]")
    check_unicode(found, piece)
    return found


def parse_lines(piece: str) -> list[Any]:
    """Parse what `line_pieces` yields. Empty lines do not count.

    Raises:
        ValueError, RecursionError: a line is not sound.
    """
    found = [DECODER.decode(line) for line in piece.split("\n") if line and not line.isspace()]
    check_unicode(found, piece)
    return found


def _past_mark(text: io.TextIOBase) -> str:
    """Read on to the first character that is no white space, past a byte order mark."""
    rest = text.read(CHUNK).removeprefix("\ufeff")
    while rest and not (stripped := rest.lstrip(" \t\n\r")):
        rest = text.read(CHUNK)
    return stripped if rest else ""


def _last_cut(text: str) -> tuple[int, int] | None:
    """Find the last place where an object follows an object: the end of the one, and the start of the other."""
    start = len(text)
    while (start := text.rfind("{", 0, start)) > 0:
        low = max(0, start - _LONGEST_GAP)
        if found := _BEFORE.search(text[low:start]):
            return low + found.start() + 1, start
    return None
