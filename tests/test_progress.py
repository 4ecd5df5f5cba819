"""Progress: one live line on a terminal, plain lines elsewhere, and rates of the last minute that reveal a stall."""

import io

import pytest

from raylabel import progress
from raylabel.progress import WINDOW_SECONDS, Counts, Progress


class Clock:
    """A clock that the test sets."""

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
    assert line.text() == "label: 400/1000 images  starting"
    clock.now += 10
    line.update(500)
    assert line.text() == "label: 500/1000 images  10.0 images/s  0:50 left"


def test_the_start_of_the_workers_does_not_count(clock: Clock) -> None:
    line = Progress("label", 1000, stream=io.StringIO())
    for _ in range(30):
        clock.now += 1
        line.update(0)
    clock.now += 0.5
    line.update(16)
    assert line.text() == "label: 16/1000 images  starting", "a lump of images is no rate"
    clock.now += 3.5
    line.update(40)
    assert line.figures().per_second == pytest.approx(10)


def test_instances_and_quarantined_images_are_shown_where_they_are_counted(clock: Clock) -> None:
    line = Progress("label", 1000, stream=io.StringIO())
    clock.now += 10
    line.show(Counts(done=100, num_instances=250, num_quarantined=3))
    assert line.text() == "label: 100/1000 images  10.0 images/s  25.0 instances/s  1:30 left  3 quarantined"
    assert line.figures().num_instances == 250


def test_rate_is_of_the_last_minute(clock: Clock) -> None:
    line = Progress("label", 100_000, stream=io.StringIO())
    done = 0
    for rate, seconds in ((100, 600), (10, 61)):
        for _ in range(seconds):
            clock.now += 1
            done += rate
            line.show(Counts(done=done, num_instances=3 * done))
    figures = line.figures()
    assert figures.per_second == pytest.approx(10)
    assert figures.instances_per_second == pytest.approx(30)
    assert figures.seconds_left == pytest.approx((100_000 - done) / 10)


def test_a_stall_shows(clock: Clock) -> None:
    line = Progress("label", 1000, stream=io.StringIO())
    for done in range(1, 101):
        clock.now += 1
        line.update(done)
    for _ in range(31):
        clock.now += 1
        line.update(100)
    assert line.figures().per_second == pytest.approx(30 / WINDOW_SECONDS, abs=0.02)
    for _ in range(59):
        clock.now += 1
        line.update(100)
    assert line.text() == "label: 100/1000 images  0.0 images/s  nothing done for 1:30"
    assert line.figures().seconds_left is None
    clock.now += 1
    line.update(102)
    assert line.figures().seconds_left == pytest.approx(898 / 2 * WINDOW_SECONDS, rel=0.05)


def test_work_that_is_made_again_lowers_what_is_done_but_no_rate_is_negative(clock: Clock) -> None:
    line = Progress("label", 1000, stream=io.StringIO())
    for done in (100, 60):
        clock.now += 100
        line.show(Counts(done=done, num_instances=done))
    figures = line.figures()
    assert figures.done == 60
    assert figures.per_second == figures.instances_per_second == 0


def test_memory_is_bounded(clock: Clock) -> None:
    line = Progress("label", 10**6, stream=io.StringIO())
    for done in range(10_000):
        clock.now += 0.5
        line.update(done)
    assert len(line._window) <= WINDOW_SECONDS + 2


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


def test_the_last_line_has_the_rate_of_all_the_time(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress("label", 1100, stream=stream, done=100) as line:
        for done in range(101, 1101):
            clock.now += 1 if done <= 600 else 2
            line.show(Counts(done=done, num_quarantined=1))
    assert stream.getvalue().splitlines()[-1] == "label: 1100/1100 images  0.7 images/s  1 quarantined  took 25:00"


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
