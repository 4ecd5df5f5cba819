"""The Ray session of a driver: connect, and follow what workers do."""

import logging
import math
import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from typing import Any

import ray
from ray.data import DataContext
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raylabel.pipeline.live_snapshot import commit_progress, remove_progress
from raylabel.pipeline.metrics import ImagesLeft
from raylabel.progress import Counts, Progress
from raylabel.storage import RunFolder

FIGURES_SECONDS = 5.0
"""Between two times that a driver leaves its figures in the run; on an object store each is one small PUT."""


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


KEYS_HELD = 4096
"""Keys whose counts are held apart: more than there are workers, by far."""


@ray.remote(num_cpus=0)
class LiveCounter:
    """Takes counts from workers anywhere on the cluster for the driver's progress line, and bad input that they met.

    A key (a shard, a model) has the counts that were reported last: what is made again doesn't count twice. Only the
    keys that were heard of last are held apart, the others are summed up, so memory doesn't grow with the pool.
    """

    def __init__(self) -> None:
        self._by_key: OrderedDict[str, Counts] = OrderedDict()
        self._summed_up = Counts(done=0)
        self._note = ""
        self._refusal: str | None = None

    def report(
        self, key: str, done: int, instances: int | None = None, quarantined: int | None = None, note: str = ""
    ) -> None:
        """`key` has so much done in all, with so many instances and quarantined images where the stage counts them."""
        self._by_key[key] = Counts(done=done, num_instances=instances, num_quarantined=quarantined)
        self._by_key.move_to_end(key)
        self._note = note or self._note
        if len(self._by_key) > KEYS_HELD:
            self._summed_up = _add(self._summed_up, self._by_key.popitem(last=False)[1])

    def total(self) -> Counts:
        """Sum over keys, with the last note."""
        return replace(reduce(_add, self._by_key.values(), self._summed_up), note=self._note)

    def refuse(self, message: str) -> None:
        """A worker met bad input: trying again would not help."""
        self._refusal = self._refusal or message

    def refusal(self) -> str | None:
        """What was refused first, if anything."""
        return self._refusal


def _add(one: Counts, other: Counts) -> Counts:
    def both(name: str) -> int | None:
        known = [value for value in (getattr(one, name), getattr(other, name)) if value is not None]
        return sum(known) if known else None

    return Counts(
        done=one.done + other.done,
        num_instances=both("num_instances"),
        num_quarantined=both("num_quarantined"),
    )


@contextmanager
def live_progress(
    label: str, total: int, *, unit: str, run: RunFolder, folder: str, done: int = 0, quarantined: int = 0
) -> Iterator[Any]:
    """Follow a LiveCounter on the progress line; yields the actor for workers to report to.

    The figures are left in the run for `raylabel status` every few seconds. They go when the work is done, and stay
    where it is interrupted: their age tells. In `label` the images to do are a Ray metric as well.

    Args:
        label, total, unit: as of Progress.
        run, folder: where in the run the figures are left.
        done, quarantined: work that was finished before; workers report only their own.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    counter = LiveCounter.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
    stop = threading.Event()
    images_left = ImagesLeft(run) if label == "label" else None
    with Progress(label, total, unit=unit, done=done) as progress:

        def poll() -> None:
            counts: Counts = ray.get(counter.total.remote(), timeout=30)
            if counts.num_quarantined is not None:
                counts = replace(counts, num_quarantined=quarantined + counts.num_quarantined)
            progress.show(replace(counts, done=min(total, done + counts.done)))

        def follow() -> None:
            last_written = -math.inf
            while not stop.wait(0.5):
                try:
                    poll()
                    if time.monotonic() - last_written >= FIGURES_SECONDS:
                        last_written, figures = time.monotonic(), progress.figures()
                        if images_left:
                            images_left.show(figures.total - figures.done)
                        commit_progress(run, folder, label=label, figures=figures)
                except (RayError, TimeoutError, OSError):
                    # A busy driver or a store out of reach: the next round shows more.
                    continue

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield counter
            stop.set()
            thread.join()
            poll()
        finally:
            stop.set()
            thread.join()
            ray.kill(counter)
    remove_progress(run, folder)
