"""The one parser of JSON that users write: every fault is one line that names the file."""

import gzip
import json
import re
import zlib
from collections import Counter
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from raylabel.errors import InputError, shown, shown_error

_Kind = TypeVar("_Kind")
GZIP = b"\x1f\x8b"
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(content: bytes | str, where: str, *, must_be_unicode: bool = True) -> Any:
    """Parse JSON text. NaN and Infinity are read, because many tools write them.

    Args:
        content: UTF-8, UTF-16 or UTF-32 text, with or without a byte order mark, also compressed with gzip; or text.
        where: the file, or the line of a file, for messages.
        must_be_unicode: whether to refuse half surrogate pairs, which some tools write for bytes that are not UTF-8.

    Raises:
        InputError: the text is empty, truncated or not JSON, a key is given twice in one object, a number has
            thousands of digits, the nesting is too deep, or a text is not Unicode.
    """
    try:
        text = content if isinstance(content, str) else _decoded(content)
        if not text or text.isspace():
            raise InputError(f"{where}: not JSON: it is empty")
        value = DECODER.decode(text)
        if must_be_unicode:
            check_unicode(value, text)
        return value
    except InputError:
        raise
    except RecursionError:
        raise InputError(f"{where}: not usable JSON: lists or objects are nested too deeply") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{where}: not readable as gzip: {error}") from error
    except UnicodeError as error:
        raise InputError(f"{where}: not JSON: its text is not Unicode: {error}") from error
    except ValueError as error:  # JSONDecodeError, a key that is given twice, a number of thousands of digits
        raise InputError(f"{where}: not JSON: {error}") from error


def check_unicode(value: Any, text: str) -> None:
    """Check that a value, parsed from this text, has no half surrogate pairs. Parquet and the console refuse them.

    Raises:
        UnicodeEncodeError: it has.
    """
    if _ESCAPED_SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()


def checked_as(kind: type[_Kind], content: Any, where: str) -> _Kind:
    """Turn a parsed object into a dataclass, and check the types of all its fields.

    Raises:
        InputError: a field is missing, unknown to the type, or has the wrong type. The message names the first.
    """
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "".join(f"{one}: " for one in first["loc"])
        message = first["msg"][0].lower() + first["msg"][1:]
        raise InputError(f"{where}: {shown_error(f'{place}{message}')}, got {shown(first['input'])}") from None


def _decoded(content: bytes) -> str:
    if content.startswith(GZIP):
        content = gzip.decompress(content)
    return content.decode(json.detect_encoding(content)).removeprefix("\ufeff")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object. Of a key that is given twice, json would silently keep the last value."""
    found = dict(pairs)
    if len(found) != len(pairs):
        [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {shown(twice)} is given twice in one object")
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_unique)
