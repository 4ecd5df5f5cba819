"""The example of a teacher class of your own runs as a script, and its class is short."""

import ast
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_teacher.py"


def test_the_teacher_is_checked_and_finds_the_squares() -> None:
    done = subprocess.run([sys.executable, str(EXAMPLE)], capture_output=True, text=True, check=True)
    first, *_, one, two, three = done.stdout.splitlines()
    assert first == "PixelTeacher keeps every promise of a segmenter."
    for index, line in enumerate((one, two, three)):
        assert line.startswith(f"class {index}, score 0.9")


def test_the_class_has_fewer_than_40_lines_of_code() -> None:
    source = EXAMPLE.read_text()
    [teacher] = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    after_docstring = teacher.body[1].lineno - 1
    lines = source.splitlines()[after_docstring : teacher.end_lineno]
    assert len([line for line in lines if line.strip()]) + 1 < 40
