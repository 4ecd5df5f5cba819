"""Progress: one live line on a terminal, plain lines elsewhere."""

import io

import pytest

from raylabel import progress
from raylabel.progress import Progress


class Clock:
    """Time that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_rate_and_time_left_leave_out_what_was_done_before(clock: Clock) -> None:
    line = Progress("label", 1000, done=400, stream=io.StringIO())
    clock.now += 10
    line.done = 500
    assert line.text() == "label: 500/1000 images  10.0 images/s  0:50 left"


def test_plain_lines_are_rare_and_the_last_is_always_there(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress("teacher", 100, unit="steps", stream=stream, plain_seconds=10) as line:
        for done in range(1, 101):
            clock.now += 0.25
            line.update(done, note="loss 1.0")
    lines = stream.getvalue().splitlines()
    assert lines == [
        "teacher: 40/100 steps  4.0 steps/s  0:15 left  loss 1.0",
        "teacher: 80/100 steps  4.0 steps/s  0:05 left  loss 1.0",
        "teacher: 100/100 steps  4.0 steps/s  took 0:25",
    ]


def test_a_terminal_gets_one_line_that_is_rewritten(clock: Clock) -> None:
    stream = Terminal()
    with Progress("label", 2, stream=stream) as line:
        line.update(0)
        clock.now += 3700
        line.update(2)
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("took 1:01:40\n")
    assert text.count("\r") == 3
