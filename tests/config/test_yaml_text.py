"""Any bytes give settings or one line: deep, odd and damaged YAML."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_line import value_or_line
from raylabel.config.load import config_from_yaml
from raylabel.config.yaml_text import parse_yaml
from raylabel.errors import InputError

DATA = "data: {labelled: a.json, images: é, calibration: b.json, validation: c.json, pool: im}\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_every_encoding_of_unicode_is_read(encoding: str) -> None:
    assert config_from_yaml(DATA.encode(encoding), "a.yaml").data.images == "é"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("teacher: " + "[" * 100_000, "nested too deeply"),
        ("teacher: " + "{a: " * 100_000, "nested too deeply"),
        ("\n".join(" " * depth + "a:" for depth in range(3000)), "nested too deeply"),
        ("seed: " + "9" * 5000, "4300 digits"),
        ("seed: 0x" + "f" * 5000, "4300 digits"),
        ("seed: 2026-99-99", "month must be in"),
        ("seed: 1\nseed: 2", "the key 'seed' is given 2 times in one mapping"),
        ("teacher: {steps: 1, steps: 2}", "the key 'steps' is given 2 times"),
        ('out: "\\ud800"', "surrogates not allowed"),
        ("seed: .nan", "seed: input should be a finite number, got nan"),
        ("seed: [" + "1, " * 1000 + "1]", "seed: input should be a valid integer, got "),
        ("? " + "x" * 5000 + "\n: 1", "unknown key 'xxx"),
        ("teacher: {steps: 1", "not YAML"),
        ("seed: *nowhere", "undefined alias"),
        ("seed: !!python/object:os.system {}", "could not determine a constructor"),
        ("seed: \0", "special characters are not allowed"),
        ("seed: !!int ''", "not YAML"),
        ("seed: !!bool x", "not YAML"),
        ("seed: !!timestamp x", "not YAML"),
        ("seed: !!float ''", "not YAML"),
    ],
)
def test_damage_is_one_line(setting: str, message: str) -> None:
    _, line = value_or_line(lambda: config_from_yaml((DATA + setting).encode(), "a.yaml"))
    assert line.startswith("a.yaml: ")
    assert message in line


@pytest.mark.parametrize("content", [gzip.compress(DATA.encode()), b"\xff\xfe\xff", b"a: \xe9"])
def test_what_is_no_text_is_one_line(content: bytes) -> None:
    with pytest.raises(InputError, match=r"^a\.yaml: not YAML: "):
        parse_yaml(content, "a.yaml")


LAUGHS = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{depth}: &a{depth} [{', '.join([f'*a{depth - 1}'] * 10)}]\n" for depth in range(1, 10)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{d}: &a{d} {{<<: [{', '.join([f'*a{d - 1}'] * 9)}]}}\n" for d in range(1, 30))


@pytest.mark.parametrize(
    "text",
    [LAUGHS, MERGES, "a: &a [*a]", "a: &a {b: *a}", f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 1000)}]"],
    ids=["lists", "merges", "list in itself", "mapping in itself", "long text"],
)
def test_aliases_that_stand_for_too_much_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^a\.yaml: not YAML: must have at most 100000 values, those of aliases incl"):
        parse_yaml(text, "a.yaml")
    indented = "\n".join(f"    {line}" for line in text.splitlines())
    _, line = value_or_line(
        lambda: config_from_yaml(f"{DATA}teacher:\n  model_options:\n{indented}".encode(), "a.yaml")
    )
    assert "must have at most 100000 values" in line


def test_many_aliases_of_a_small_value_are_read() -> None:
    found = parse_yaml(f"a: &a {{steps: 1}}\nb: [{', '.join(['*a'] * 1000)}]", "a.yaml")
    assert found["b"] == [{"steps": 1}] * 1000


def test_anchors_and_merges_may_override() -> None:
    text = "base: &base {steps: 1, seed: 2}\nother: &other {<<: *base, steps: 3}\nthird: {<<: *other, seed: 4}"
    assert parse_yaml(text, "a.yaml")["third"] == {"steps": 3, "seed": 4}


@given(content=st.binary(max_size=40) | st.text(alphabet="ab01 :,-[]{}&*!?'\"\n#|>.é", max_size=40).map(str.encode))
def test_any_bytes_give_a_value_or_one_line(content: bytes) -> None:
    value_or_line(lambda: parse_yaml(content, "a.yaml"))
    value_or_line(lambda: config_from_yaml(DATA.encode() + content, "a.yaml"))
