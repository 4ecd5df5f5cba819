"""Pieces of a JSON list, cut anywhere, are the list; what cannot be cut is refused."""

import gzip
import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.files import json_pieces
from raylabel.files.json_pieces import line_pieces, list_pieces, parse_lines, parse_list_piece
from raylabel.files.json_text import DECODER

TEXTS = st.text(alphabet='{}[],:"\\ anä\n', max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.lists(st.dictionaries(TEXTS, VALUES, max_size=3), max_size=12)


def of_pieces(text: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setattr(json_pieces, "CHUNK", chunk)
    return [one for piece in list_pieces(io.BytesIO(text.encode())) for one in parse_list_piece(piece)]


@given(objects=OBJECTS, chunk=st.integers(1, 80), indent=st.sampled_from([None, 0, 2]))
@settings(deadline=None, max_examples=300)
def test_pieces_are_the_list_or_refused(objects: list[Any], chunk: int, indent: int | None) -> None:
    text = json.dumps(objects, indent=indent)
    with pytest.MonkeyPatch.context() as monkeypatch:
        try:
            assert of_pieces(text, chunk, monkeypatch) == objects
        except ValueError:  # cut between two objects that lie within an element
            assert "}," in json.dumps([[one] for one in objects], separators=(",", ":"))


@given(objects=OBJECTS.filter(bool), chunk=st.integers(1, 80), data=st.data())
@settings(deadline=None, max_examples=300)
def test_damage_is_never_read_as_a_list(objects: list[Any], chunk: int, data: st.DataObject) -> None:
    text = json.dumps(objects)
    place = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:place] + data.draw(st.sampled_from(["", "}", "]", ",", '"', "{", "},{"])) + text[place + 1 :]
    with pytest.MonkeyPatch.context() as monkeypatch:
        try:
            found = of_pieces(damaged, chunk, monkeypatch)
        except ValueError:
            return
    assert found == DECODER.decode(damaged)


@pytest.mark.parametrize("text", ["", " ", "{}", "[1", '[{"a": 1}]]', '[{"a": 1},]', '[{"a": 1, "a": 2}]', "[,]"])
def test_what_is_no_list_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the slow reader says what is wrong
        of_pieces(text, 5, monkeypatch)


def test_encodings_marks_and_compression(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = [{"name": "ä", "number": one} for one in range(50)]
    monkeypatch.setattr(json_pieces, "CHUNK", 64)
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        text = json.dumps(objects, ensure_ascii=False).encode(encoding)
        for content in (text, gzip.compress(text)):
            assert [one for piece in list_pieces(io.BytesIO(content)) for one in parse_list_piece(piece)] == objects
    lines = "\n\n".join(json.dumps(one) for one in objects).encode()
    for content in (lines, lines + b"\n", gzip.compress(lines)):
        assert [one for piece in line_pieces(io.BytesIO(content)) for one in parse_lines(piece)] == objects


def test_a_line_is_one_value(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("1,2", '{"a": 1} {"a": 2}', '{"a": "\\ud800"}'):
        with pytest.raises(ValueError):  # noqa: PT011  # the slow reader says what is wrong
            parse_lines(text)
