"""Every option that takes a user's JSON or YAML ends with exit code 2 and one line for an odd file."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from raylabel.cli import main
from raylabel.config import load_config
from raylabel.errors import InputError
from raylabel.run.data import RunData

SQUARE = [[0, 0, 4, 0, 4, 4, 0, 4]]
OBJECTS = [{"image_id": image, "category_id": 7, "segmentation": SQUARE, "bbox": [0, 0, 4, 4]} for image in range(6)]
TRUTH = {
    "images": [{"id": image, "file_name": f"{image}.png", "height": 8, "width": 8} for image in range(6)],
    "categories": [{"id": 7, "name": "cat"}],
    "annotations": [one | {"id": number} for number, one in enumerate(OBJECTS)],
}
RESULTS = [one | {"score": 0.5} for one in OBJECTS]

ODD = {
    "empty": b"",
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "endless number": b'[{"image_id": ' + b"9" * 5000 + b"}]",
    "truncated": json.dumps(TRUTH).encode()[:-20],
    "no Unicode": '["é"]'.encode("latin-1"),
    "half of UTF-16": "[1]".encode("utf-16")[:-1],
    "truncated gzip": gzip.compress(json.dumps(TRUTH).encode())[:-9],
    "repeated key": b'{"images": [], "images": []}',
    "a number": b"3",
    "NaN": b"NaN",
}

COMMANDS = {
    "calibrate --predictions": ("calibrate", {"--predictions": "odd", "--annotations": "truth", "--out": "out"}),
    "calibrate --annotations": ("calibrate", {"--predictions": "results", "--annotations": "odd", "--out": "out"}),
    "calibrate --train-annotations": (
        "calibrate",
        {"--predictions": "results", "--annotations": "truth", "--train-annotations": "odd", "--out": "out"},
    ),
    "correct --corrector": ("correct", {"--corrector": "odd", "--predictions": "results", "--out": "out"}),
    "correct --predictions": ("correct", {"--corrector": "corrector", "--predictions": "odd", "--out": "out"}),
    "evaluate --predictions": ("evaluate", {"--predictions": "odd", "--annotations": "truth"}),
    "evaluate --annotations": ("evaluate", {"--predictions": "results", "--annotations": "odd"}),
    "check CONFIG": ("check", {"odd": ""}),
    "run CONFIG": ("run", {"odd": ""}),
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    contents: dict[str, Any] = {"truth": TRUTH, "results": RESULTS}
    contents["corrector"] = {"kind": "none", "category_ids": [7]}
    for name, content in contents.items():
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path


def the_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert len(line) < 500
    return line


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("odd", ODD)
def test_one_line(files: Path, capsys: pytest.CaptureFixture[str], command: str, odd: str) -> None:
    (files / "odd").write_bytes(ODD[odd])
    name, options = COMMANDS[command]
    words = [
        f"{word}" if word.startswith("--") else str(files / word) for pair in options.items() for word in pair if word
    ]
    assert main([name, *words]) == 2
    assert f"{files / 'odd'}: " in the_line(capsys)
    assert not (files / "out").exists()


@pytest.mark.parametrize("part", ["labelled", "calibration", "validation", "pool_truth"])
@pytest.mark.parametrize("odd", ODD)
def test_every_annotation_file_of_a_run(files: Path, part: str, odd: str) -> None:
    (files / "odd").write_bytes(ODD[odd])
    names = {"labelled": "truth", "calibration": "truth", "validation": "truth", "pool_truth": "truth"} | {part: "odd"}
    (files / "config").write_text(json.dumps({"data": names | {"images": "images", "pool": "images"}}))
    data = RunData(load_config(files / "config"))
    with pytest.raises(InputError, match=f"{files}/odd: ") as raised:
        getattr(data, part)
    assert "\n" not in str(raised.value)


def test_what_is_odd_but_whole_is_read(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A byte order mark, UTF-16 and gzip."""
    text = json.dumps(RESULTS)
    for content in (text.encode("utf-8-sig"), text.encode("utf-16"), gzip.compress(text.encode())):
        (files / "odd").write_bytes(content)
        command = ["evaluate", "--predictions", str(files / "odd"), "--annotations", str(files / "truth"), "--json"]
        assert main(command) == 0
        assert json.loads(capsys.readouterr().out)["AP"] == pytest.approx(1)
