"""A stream of JSON gives what the whole file gives: the same values and the same refusals, in pieces of any size."""

import gzip
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_line import value_or_line
from raylabel.errors import InputError
from raylabel.files import json_stream
from raylabel.files.json_stream import iter_elements
from raylabel.files.json_text import parse_json
from raylabel.files.stored_file import StoredFile

_POSITION = re.compile(r"in position \d+")
"""Where half a surrogate pair is: in the element, or in the file."""

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def whole(content: bytes, chunk: int) -> Any:
    """Put the elements of a stream together again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "CHUNK", chunk)
        found = list(iter_elements(io.BytesIO(content), "a.json"))
    if not found:
        return {}
    if found[0].name is None and not found[0].is_element:
        [only] = found
        return only.value
    if found[0].name is None:
        return [one.value for one in found]
    members: dict[str, Any] = {}
    for one in found:
        assert json.loads(one.text) == one.value
        if one.is_element:
            members.setdefault(str(one.name), []).append(one.value)
        else:
            members[str(one.name)] = one.value
    return members


@given(value=VALUES, chunk=st.integers(1, 40), indent=st.none() | st.just(1), ascii=st.booleans())
def test_any_value_in_pieces_of_any_size(value: Any, chunk: int, indent: int | None, ascii: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii)
    try:
        content = text.encode()
    except UnicodeEncodeError:
        return
    known, line = value_or_line(lambda: parse_json(content, "a.json"))
    found, refusal = value_or_line(lambda: whole(content, chunk))
    assert (found, refusal) == (known, line)


@given(
    value=st.dictionaries(st.text(max_size=3), st.lists(SCALARS, max_size=3), max_size=3),
    chunk=st.integers(1, 40),
    place=st.integers(0, 200),
    insert=st.text(alphabet='{}[]",:0tn\\ \n\x01', max_size=2),
    num_lost=st.integers(0, 3),
)
def test_any_damage_is_the_same_line(value: Any, chunk: int, place: int, insert: str, num_lost: int) -> None:
    text = json.dumps(value, indent=1)
    content = (text[:place] + insert + text[place + num_lost :]).encode()
    known, line = value_or_line(lambda: parse_json(content, "a.json"))
    found, refusal = value_or_line(lambda: whole(content, chunk))
    assert (found, _POSITION.sub("", refusal)) == (known, _POSITION.sub("", line))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_every_encoding_of_unicode(encoding: str) -> None:
    value = {"images": [{"name": "é\U0001f600"}] * 9}
    content = json.dumps(value, ensure_ascii=False).encode(encoding)
    assert whole(content, 7) == value
    assert whole(gzip.compress(content), 7) == value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b" \n ", "it is empty"),
        (b'{"a": [' + b"[" * 100_000, "nested too deeply"),
        (b'{"a": [{"b": 1, "b": 2}]}', "the key 'b' is given twice"),
        (b'{"a": [1], "a": [2]}', "the key 'a' is given twice"),
        (b'[{"a": "\\ud800"}]', "not Unicode"),
        (b'["\xe9"]', "not Unicode"),
        (gzip.compress(b'{"a": [1, 2, 3]}')[:-9], "gzip"),
        (gzip.compress(b'{"a": [1, 2, 3]}')[:-3] + b"123", "gzip"),
        (b"[" + b"9" * 5000 + b"]", "4300 digits"),
    ],
)
def test_damage_is_one_line(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=f"^a.json: .*{message}"):
        whole(content, 64)


def test_memory_is_that_of_a_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"a": [{"id": number, "text": "x" * 100} for number in range(20_000)], "b": 3}))
    monkeypatch.setattr(json_stream, "CHUNK", 10_000)
    longest = 0
    scanner = json_stream._Scanner(json_stream.text_of(StoredFile(str(path))))
    for number, element in enumerate(scanner.elements()):
        longest = max(longest, len(scanner._text))
        assert element.value == (3 if number == 20_000 else {"id": number, "text": "x" * 100})
    assert number == 20_000
    assert longest <= 20_200
