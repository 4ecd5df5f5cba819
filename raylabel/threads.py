"""Work on threads, one per CPU. It suits numpy and Arrow, because they release Python's lock while they compute."""

import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol, TypeVar

READING_THREADS = 16
"""Number of threads for work that mostly waits for files, for example in an object store."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def map_on_threads(
    function: Callable[[_Item], _Result], items: Sequence[_Item], *, num_threads: int | None = None
) -> Iterator[_Result]:
    """Apply a function to each item on threads, and yield the results in order.

    After an exception no further item is started.

    Args:
        function: applied to each item.
        items: its arguments.
        num_threads: number of threads; one per CPU if None.
    """
    num_threads = min(len(items), num_threads or num_cpus())
    if num_threads <= 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(num_threads) as threads:
        yield from threads.map(function, items)


class Map(Protocol):
    """`map_on_threads`, or a function that does the same elsewhere, such as `cluster.shard_tasks.map_over_shards`."""

    def __call__(self, function: Callable[[_Item], _Result], items: Sequence[_Item], /) -> Iterator[_Result]:
        """Apply the function to each item, and yield the results in order."""


def one_ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """Yield the same items, making the next item on a thread while the caller uses the last one."""
    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(next, items, _END)
        while (item := ahead.result()) is not _END:
            ahead = thread.submit(next, items, _END)
            yield item  # type: ignore[misc]  # not the end mark: mypy does not narrow by identity with an object
            del item  # because then only the caller holds its memory during the wait


_END = object()


@contextmanager
def every(seconds: float, work: Callable[[], None]) -> Iterator[None]:
    """Call `work` again and again in a thread, this many seconds after its last call, while the block runs.

    The block's end waits for a call that has begun. `work` must handle its own exceptions.
    """
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(seconds):
            work()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def interruptible(work: Callable[[], _Result]) -> _Result:
    """Run `work` in a thread, and return its result. Ctrl-C ends the wait at once, and leaves the work behind.

    It is for libraries that handle signals otherwise if they run in the main thread.
    """
    result: Future[_Result] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return result.result()


def num_cpus() -> int:
    """Return the number of CPUs that this process may use, by its CPU set and its container's quota, at least 1."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cpus, _cpu_quota())))


CONTROL_GROUP = Path("/sys/fs/cgroup")


def _cpu_quota() -> float:
    """Return the CPUs that a container's control group allows, infinite without a limit.

    Source: Linux, "Control Group v2" (cpu.max) and "CFS Bandwidth Control" (version 1).
    """
    with suppress(OSError, ValueError, ZeroDivisionError):  # no Linux, or "max" for no limit
        quota, period = (CONTROL_GROUP / "cpu.max").read_text().split()
        return int(quota) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = ((CONTROL_GROUP / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    return math.inf
