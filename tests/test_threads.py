"""Work on threads: in order, and no more of it after a failure."""

import threading

import pytest

from raylabel.threads import map_on_threads, num_cpus


@pytest.mark.parametrize("cpus", [1, 3])
def test_results_come_in_order(cpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raylabel.threads.num_cpus", lambda: cpus)
    assert list(map_on_threads(lambda value: value * value, range(50))) == [value * value for value in range(50)]
    assert list(map_on_threads(abs, [])) == []


def test_as_many_threads_as_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raylabel.threads.num_cpus", lambda: 2)
    meet = threading.Barrier(2, timeout=10)  # one thread alone would wait in vain
    assert len(list(map_on_threads(lambda _: meet.wait(), range(4)))) == 4
    assert num_cpus() >= 1


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
