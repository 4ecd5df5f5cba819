"""Work on processes: in order, lazily, with the exceptions of the work, and with a line where a process dies."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from operator import mod, neg
from pathlib import Path

import pytest

from raylabel.processes import map_on_processes


def test_results_come_in_order_from_other_processes() -> None:
    found = list(map_on_processes(neg, range(20), num_processes=2))
    assert found == [(one, -one) for one in range(20)]
    pids = {pid for _, pid in map_on_processes(_pid, range(20), num_processes=2)}
    assert 1 <= len(pids) <= 2
    assert os.getpid() not in pids


def test_few_items_start_no_process() -> None:
    assert {pid for _, pid in map_on_processes(_pid, range(3), num_processes=2)} == {os.getpid()}
    assert {pid for _, pid in map_on_processes(_pid, range(9), num_processes=1)} == {os.getpid()}


def test_items_are_read_a_few_ahead() -> None:
    read = list[int]()

    def items() -> Iterator[int]:
        for one in range(100):
            read.append(one)
            yield one

    for number, _ in enumerate(map_on_processes(neg, items(), num_processes=2)):
        assert len(read) <= number + 7
        if number == 20:
            break


def test_exceptions_of_work_and_items_are_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        list(map_on_processes(partial(mod, 1), [1, 2, 3, 4, 0, 5], num_processes=2))

    def items() -> Iterator[int]:
        yield from range(10)
        raise KeyError("no more")

    with pytest.raises(KeyError, match="no more"):
        list(map_on_processes(neg, items(), num_processes=2))


def test_a_process_that_dies_is_named() -> None:
    with pytest.raises(RuntimeError, match="ended with exit code -9; was there enough memory"):
        list(map_on_processes(_kill, range(10), num_processes=2))


def test_a_script_needs_no_main_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from operator import neg\nfrom raylabel.processes import map_on_processes\n"
        "print(sum(one for _, one in map_on_processes(neg, range(10), num_processes=2)))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout == "-45\n"


def _pid(_: int) -> int:
    return os.getpid()


def _kill(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
