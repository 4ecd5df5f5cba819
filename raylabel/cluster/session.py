"""The Ray session of a driver: connect, and follow what workers do."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.data import DataContext


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names (`ray job submit` sets it), else start a local one; once a process."""
    if not ray.is_initialized():
        # Ray's C++ core reports a known remark on every actor pool as an error; real failures come as exceptions.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if not os.environ.get("RAY_ADDRESS"):
            # A machine of one CPU still needs one for the pool and one for everything else.
            options |= {"address": "local", "num_cpus": max(2, os.cpu_count() or 1), "include_dashboard": False}
        with _silent_stderr():
            ray.init(**options)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    logging.getLogger("ray.train").setLevel(logging.WARNING)


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Ray's C++ core writes to file descriptor 2 past Python; what goes wrong in `ray.init` is raised."""
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
