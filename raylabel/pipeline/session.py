"""The Ray session of a driver: connect, check that the work fits, and follow it live."""

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.data import DataContext

from raylabel.errors import InputError
from raylabel.progress import Progress


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names (`ray job submit` sets it), else start a local one; once a process."""
    if not ray.is_initialized():
        # Ray's C++ core reports a known remark on every actor pool as an error; real failures come as exceptions.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if not os.environ.get("RAY_ADDRESS"):
            # A machine of one CPU still needs one for the pool and one for everything else.
            options |= {"num_cpus": max(2, os.cpu_count() or 1), "include_dashboard": False}
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


def check_pool_fits(*, num_workers: int, num_cpus: float, num_gpus: float) -> None:
    """One whole CPU must stay free beside an actor pool, or Ray Data waits in silence.

    Raises:
        InputError: the cluster is too small; the message names the setting and both figures.
    """
    resources = ray.cluster_resources()
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    asked = f"label.num_workers: {num_workers} workers x"
    if num_workers * num_cpus > cpus - 1:
        raise InputError(f"{asked} {num_cpus:g} CPUs must leave one CPU free, the cluster has {cpus:g}")
    if num_workers * num_gpus > gpus:
        raise InputError(f"{asked} {num_gpus:g} GPUs asked for, the cluster has {gpus:g}")


@ray.remote(num_cpus=0)
class LiveCounter:
    """Takes counts from workers anywhere on the cluster for the driver's progress line, and bad input that they met."""

    def __init__(self) -> None:
        self._done: dict[str, int] = {}
        self._note = ""
        self._refusal: str | None = None

    def report(self, key: str, done: int, note: str = "") -> None:
        """Worker `key` has done so much in all."""
        self._done[key] = done
        self._note = note or self._note

    def total(self) -> tuple[int, str]:
        """Sum over workers, and the last note."""
        return sum(self._done.values()), self._note

    def refuse(self, message: str) -> None:
        """A worker met bad input: trying again would not help."""
        self._refusal = self._refusal or message

    def refusal(self) -> str | None:
        """What was refused first, if anything."""
        return self._refusal


@contextmanager
def live_progress(label: str, total: int, *, unit: str, done: int = 0) -> Iterator[Any]:
    """Follow a LiveCounter on the progress line; yields the actor for workers to report to.

    Args:
        label, total, unit: as of Progress.
        done: work that was finished before; workers report only their own.
    """
    counter = LiveCounter.remote()  # type: ignore[attr-defined]
    stop = threading.Event()
    with Progress(label, total, unit=unit, done=done) as progress:

        def poll() -> tuple[int, str]:
            reported, note = ray.get(counter.total.remote(), timeout=30)
            return min(total, done + reported), note

        def follow() -> None:
            while not stop.wait(0.5):
                try:
                    progress.update(*poll())
                except (ray.exceptions.RayError, TimeoutError):
                    return

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield counter
            stop.set()
            thread.join()
            progress.update(*poll())
        finally:
            stop.set()
            thread.join()
            ray.kill(counter)
