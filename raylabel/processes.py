"""Work on processes of this machine, without Ray. It suits work that holds Python's lock, such as parsing."""

import os
import pickle
import queue
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import chain, islice
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from raylabel.threads import num_cpus

MAX_PROCESSES = 8
"""More would wait for the process that reads the items and takes the results. Each needs about 200 MB."""

_MIN_ITEMS = 4
"""Fewer items are done in this process, because starting others takes longer."""

_AHEAD = 2
"""Items per process that are read before the first result is taken."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def map_on_processes(
    function: Callable[[_Item], _Result], items: Iterable[_Item], *, num_processes: int | None = None
) -> Iterator[tuple[_Item, _Result]]:
    """Apply a function to each item in other processes, and yield items with their results in order.

    Items are read while results are taken, a few ahead. The processes run no code of the caller's script, so a script
    needs no `if __name__ == "__main__"`. They end with the iteration, and if this process dies.

    Args:
        function: function of a module that can be imported, or a `partial` of it. It is sent to each process once.
        items: its arguments. Items and results must be picklable.
        num_processes: number of processes; one per CPU, but at most MAX_PROCESSES, if None.

    Raises:
        RuntimeError: a process died, for instance for want of memory. An exception of the function is raised as it is.
    """
    num_processes = num_processes or min(MAX_PROCESSES, num_cpus())
    items = iter(items)
    first = list(islice(items, _MIN_ITEMS))
    if num_processes == 1 or len(first) < _MIN_ITEMS:
        yield from ((item, function(item)) for item in chain(first, items))
        return
    with ExitStack() as stack:
        free = queue.SimpleQueue[_Process]()
        content = pickle.dumps(function)
        for _ in range(num_processes):
            free.put(stack.enter_context(_Process(content)))
        threads = stack.enter_context(ThreadPoolExecutor(num_processes))

        def call(item: _Item) -> _Result:
            process = free.get()
            try:
                found: _Result = process.call(item)
            finally:
                free.put(process)
            return found

        pending = deque[tuple[_Item, Future[_Result]]]()
        try:
            for item in chain(first, items):
                pending.append((item, threads.submit(call, item)))
                if len(pending) >= (1 + _AHEAD) * num_processes:
                    done, future = pending.popleft()
                    yield done, future.result()
            while pending:
                done, future = pending.popleft()
                yield done, future.result()
        finally:
            for _, future in pending:
                future.cancel()


class _Process:
    """A child that applies one function to what it is sent."""

    def __init__(self, function: bytes) -> None:
        self._connection, theirs = Pipe()
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-c", f"from raylabel.processes import serve; serve({theirs.fileno()})"],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno() if _has_descriptor(sys.stderr) else subprocess.DEVNULL,
                # One thread each, because all CPUs have a process already.
                env=os.environ
                | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"},
            )
        self._connection.send_bytes(function)

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._child.wait()

    def call(self, item: Any) -> Any:
        try:
            self._connection.send(item)
            is_result, value = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            code = self._child.wait()
            raise RuntimeError(
                f"a process of raylabel ended with exit code {code}; was there enough memory?"
            ) from error
        if not is_result:
            raise value
        return value


def serve(descriptor: int) -> None:
    """Apply the function that a parent sends to each item that it sends then. Return when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # because the parent ends its children
    with Connection(descriptor) as connection:
        try:
            function = connection.recv()
            while True:
                item = connection.recv()
                try:
                    found = True, function(item)
                except Exception as error:
                    found = False, error
                connection.send(found)
        except (EOFError, ConnectionError):
            return


def _has_descriptor(stream: Any) -> bool:
    try:
        stream.fileno()
    except (AttributeError, OSError, ValueError):
        return False
    return True
