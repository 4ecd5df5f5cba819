"""Work on threads keeps its order and stops after a failure."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from raylabel import threads
from raylabel.threads import interruptible, map_on_threads, num_cpus, one_ahead


@pytest.mark.parametrize("cpus", [1, 3])
def test_results_come_in_order(cpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raylabel.threads.num_cpus", lambda: cpus)
    assert list(map_on_threads(lambda value: value * value, range(50))) == [value * value for value in range(50)]
    assert list(map_on_threads(abs, [])) == []


def test_as_many_threads_as_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raylabel.threads.num_cpus", lambda: 2)
    meet = threading.Barrier(2, timeout=10)  # a single thread would wait until the timeout
    assert len(list(map_on_threads(lambda _: meet.wait(), range(4)))) == 4
    assert num_cpus() >= 1


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, 64),
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "10000 100000"}, 1),
        ({"cpu.max": "10000 0"}, 64),
        ({"cpu.max": "9900000 100000"}, 64),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
    ],
)
def test_a_containers_quota_counts(
    files: dict[str, str], cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(threads, "CONTROL_GROUP", tmp_path)
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda process: set(range(64)))
    assert num_cpus() == cpus


def test_an_interruptible_wait_gives_the_result_or_the_exception() -> None:
    assert interruptible(threading.get_ident) != threading.get_ident()

    def failing() -> None:
        raise KeyError("a")

    with pytest.raises(KeyError):
        interruptible(failing)


def test_after_a_failure_the_rest_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raylabel.threads.num_cpus", lambda: 2)
    begun = []

    def work(value: int) -> None:
        begun.append(value)
        if value == 0:
            raise ValueError("zero")
        threading.Event().wait(0.01)

    with pytest.raises(ValueError, match="zero"):
        list(map_on_threads(work, range(1000)))
    assert len(begun) < 1000


def test_one_ahead_makes_the_next_while_the_last_is_worked_with() -> None:
    made: list[int] = []
    second = threading.Event()

    def items() -> Iterator[int]:
        for number in range(3):
            made.append(number)
            if number == 1:
                second.set()
            yield number

    found = one_ahead(items())
    assert next(found) == 0
    assert second.wait(timeout=30), "the next item is made before the caller asks for it"
    assert list(found) == [1, 2]
    assert made == [0, 1, 2]
    assert list(one_ahead(iter([]))) == []


def test_one_ahead_passes_on_what_is_raised_and_may_be_left() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise OSError("disk")

    found = one_ahead(failing())
    assert next(found) == 1
    with pytest.raises(OSError, match="disk"):
        next(found)
    endless = one_ahead(iter(int, 1))
    assert next(endless) == 0
    endless.close()
