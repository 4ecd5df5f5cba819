"""The Ray session of a driver."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.data import DataContext

from raylabel.cluster.start_up import check_address, refused_start
from raylabel.threads import num_cpus

_is_connected_here = False
"""Whether `connect` made this process's connection to Ray."""


def connect() -> None:
    """Connect to the cluster that RAY_ADDRESS names (`ray job submit` sets it), else start a local one.

    Later calls in the same process keep the connection.

    Raises:
        InputError: RAY_ADDRESS is malformed or names no cluster that takes this driver, or a local Ray cannot start.
    """
    global _is_connected_here
    if not ray.is_initialized():
        # Ray's C++ core logs a harmless remark on every actor pool as an error. Real failures come as exceptions.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        head = None
        if address := os.environ.get("RAY_ADDRESS"):
            head = check_address(address)
        else:
            # At least two, because the pool needs one CPU and everything else another.
            options |= {"address": "local", "num_cpus": max(2, num_cpus()), "include_dashboard": False}
        try:
            with _silent_stderr(), _same_sigterm():
                ray.init(**options)
        except Exception as error:
            # Any exception, because Ray raises the class itself if its processes do not start in time.
            raise refused_start(error, head) from error
        _is_connected_here = True
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # No exception is tried again by Ray: workers take a model's exceptions apart (models/failures.py), storage has its
    # own retries, and any other exception is a defect. Workers that die are another matter (run/labels/attempts.py).
    context.max_map_retries, context.actor_task_retry_on_errors, context.max_errored_blocks = 0, False, 0
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    logging.getLogger("ray.train").setLevel(logging.WARNING)


def disconnect() -> None:
    """End the connection that `connect` made. Ray writes nothing to the console after it."""
    global _is_connected_here
    if _is_connected_here:
        ray.shutdown()
        _is_connected_here = False


@contextmanager
def _same_sigterm() -> Iterator[None]:
    """Keep the handler of SIGTERM, if there is one. Ray's own ends the process without a word."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if callable(before) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Silence file descriptor 2 inside the block, because Ray's C++ core writes to it directly.

    Failures of `ray.init` are raised as exceptions.
    """
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
