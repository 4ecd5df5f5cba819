"""Any bytes give a JSON value or one line: deep, odd, damaged and compressed files."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_line import value_or_line
from raylabel.errors import InputError, shown
from raylabel.files.json_files import read_json, read_json_object
from raylabel.files.json_text import parse_json

VALUE = {"name": "é", "ids": [1, 2.5, None]}
TEXT = json.dumps(VALUE, ensure_ascii=False)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_every_encoding_of_unicode_is_read(encoding: str) -> None:
    assert parse_json(TEXT.encode(encoding), "a.json") == VALUE
    assert parse_json(gzip.compress(TEXT.encode(encoding)), "a.json") == VALUE


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON: it is empty"),
        (b" \n", "not JSON: it is empty"),
        (b"\xef\xbb\xbf", "not JSON: it is empty"),
        (gzip.compress(b""), "not JSON: it is empty"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b"[" + b"9" * 5000 + b"]", "not JSON: .*4300 digits"),
        (b'{"a": [1, 2', "not JSON"),
        (b'{"a": 1, "b": {"a": 2, "c": 3, "a": 4}}', "the key 'a' is given twice in one object"),
        (b'{"%s": 1, "%s": 2}' % (b"k" * 500, b"k" * 500), "is given twice"),
        (b'["\\ud800"]', "its text is not Unicode"),
        (b'["\xed\xa0\x80"]', "its text is not Unicode"),
        (b"\xff\xfe\x00", "its text is not Unicode"),
        (b'["\xe9"]', "its text is not Unicode"),
        (gzip.compress(TEXT.encode())[:-9], "not readable as gzip"),
        (b"\x1f\x8bno gzip", "not readable as gzip"),
        (gzip.compress(gzip.compress(b"[]")), "not JSON"),
    ],
)
def test_damage_is_one_line(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=f"^a.json: .*{message}") as raised:
        parse_json(content, "a.json")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300


def test_what_is_odd_but_clear_is_read() -> None:
    assert parse_json(b'["\\ud83d\\ude00", "\\\\ud800"]', "a.json") == ["😀", "\\ud800"]
    assert str(parse_json(b"[NaN, 1e999, -Infinity]", "a.json")) == "[nan, inf, -inf]"
    assert parse_json(b"[" * 200 + b"]" * 200, "a.json")


@given(content=st.binary(max_size=60) | JSON_VALUES.map(json.dumps).map(str.encode))
def test_any_bytes_give_a_value_or_one_line(content: bytes) -> None:
    value_or_line(lambda: parse_json(content, "a.json"))


@given(value=JSON_VALUES)
def test_values_come_back(value: Any) -> None:
    assert parse_json(json.dumps(value).encode(), "a.json") == value
    assert len(shown(value)) <= 100
    assert "\n" not in shown(value)


def test_objects_and_special_files(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(InputError, match=r"list\.json: must be a JSON object, got list"):
        read_json_object(str(tmp_path / "list.json"))
    with pytest.raises(InputError, match="/dev/null: must be a file"):
        read_json("/dev/null")
