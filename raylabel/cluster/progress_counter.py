"""The progress counter: workers anywhere report to one actor, and the driver shows the sum on its progress line."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raylabel.errors import StorageError
from raylabel.progress import Counts, Progress
from raylabel.run.folder import RunFolder
from raylabel.run.live_files import commit_progress, remove_progress
from raylabel.threads import every

FIGURES_SECONDS = 5.0
"""Seconds between two writes of the driver's figures into the run. On an object store each is one small PUT."""


POLL_SECONDS = 0.5
"""Seconds between two looks at the counter."""

KEYS_HELD = 4096
"""Number of keys that a counter remembers, far more than there are workers."""


@ray.remote(num_cpus=0, max_restarts=-1)
class LiveCounter:
    """The counter that workers anywhere on the cluster report to, for the driver's progress line.

    The last report of a key (a shard, a model) counts, so a repeated shard doesn't count twice. Only the latest keys
    are remembered, so memory doesn't grow with the pool. Nobody waits for it, and nothing depends on its counts. After
    a death it restarts empty, and the driver gives it the counts that it saw last.
    """

    def __init__(self) -> None:
        self._life = uuid4().hex
        self._total = Counts(done=0)
        self._by_key: OrderedDict[str, Counts] = OrderedDict()
        self._attempt, self._started, self._num_workers = 0, set[int](), 0

    def start(self, attempt: int, rank: int, num_workers: int) -> None:
        """Record that a worker of this attempt at a training has started."""
        if attempt > self._attempt:
            self._attempt, self._started, self._num_workers = attempt, set(), num_workers
        if attempt == self._attempt:
            self._started.add(rank)

    def num_started(self, attempt: int) -> tuple[int, int]:
        """Return how many workers of an attempt have started, and of how many. 0 of 0 if none has."""
        return (len(self._started), self._num_workers) if attempt == self._attempt else (0, 0)

    def report(
        self, key: str, done: int, instances: int | None = None, quarantined: int | None = None, note: str = ""
    ) -> None:
        """Record the counts of a key: `done` units in total, and instances and quarantined images if counted."""
        before = self._by_key.pop(key, Counts(done=0))
        self._by_key[key] = Counts(done=done, num_instances=instances, num_quarantined=quarantined)
        self._total = Counts(
            done=self._total.done + done - before.done,
            num_instances=_replaced(self._total.num_instances, instances, before.num_instances),
            num_quarantined=_replaced(self._total.num_quarantined, quarantined, before.num_quarantined),
            note=note or self._total.note,
        )
        if len(self._by_key) > KEYS_HELD:
            self._by_key.popitem(last=False)

    def total(self) -> Counts:
        """Return the sum over keys, with the last note."""
        return self._total

    def look(self) -> tuple[str, Counts]:
        """Return a name that changes with each restart, and the total."""
        return self._life, self._total

    def counts(self) -> tuple[Counts, OrderedDict[str, Counts], tuple[int, set[int], int]]:
        """Return the total, the counts of the latest keys, and the workers that have started, for `restore`."""
        return self._total, self._by_key, (self._attempt, self._started, self._num_workers)

    def restore(
        self, total: Counts, by_key: OrderedDict[str, Counts], started: tuple[int, set[int], int] = (0, set(), 0)
    ) -> None:
        """Go on from counts of before a restart. What was reported since then counts, too."""
        since, (attempt, ranks, num_workers) = self._by_key, started
        for rank in ranks:
            self.start(attempt, rank, num_workers)
        self._total, self._by_key = total, OrderedDict(by_key)
        for key, counts in since.items():
            self.report(key, counts.done, counts.num_instances, counts.num_quarantined)


def _replaced(total: int | None, new: int | None, old: int | None) -> int | None:
    """Return a sum with `new` in place of `old`, None if nothing was counted yet."""
    return total if new is None else (total or 0) + new - (old or 0)


@contextmanager
def live_progress(
    label: str,
    total: int,
    *,
    unit: str,
    run: RunFolder,
    folder: str,
    done: int = 0,
    quarantined: int = 0,
    show_left: Callable[[int], None] = lambda num_left: None,
) -> Iterator[Any]:
    """Follow a LiveCounter on the progress line, and yield the actor for workers to report to.

    The driver writes the figures into the run for `raylabel status` every few seconds. They are removed when the work
    is done. They stay if the work is interrupted, and `status` tells their age.

    Args:
        label, total, unit: see Progress. A nested run's place is put before the label.
        run, folder: the run, and the folder in it that gets the figures.
        done, quarantined: units and quarantined images of earlier work. Workers report only their own work.
        show_left: called at each look with the number of units left, for instance to set a gauge.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    counter = LiveCounter.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]  # of ray.remote
    last_written, life = -math.inf, ""
    known: tuple[Any, ...] = (Counts(done=0), OrderedDict[str, Counts]())
    with Progress(run.title(label), total, unit=unit, done=done) as progress:

        def poll() -> None:
            nonlocal life
            now, counts = ray.get(counter.look.remote(), timeout=30)
            if life and now != life:
                counter.restore.remote(*known)
                now, counts = ray.get(counter.look.remote(), timeout=30)
            life = now
            if counts.num_quarantined is not None:
                counts = replace(counts, num_quarantined=quarantined + counts.num_quarantined)
            all_done = min(total, done + counts.done)
            progress.show(replace(counts, done=all_done))
            show_left(total - all_done)

        def follow() -> None:
            nonlocal last_written, known
            # Errors are ignored, because the driver may be busy or the store unreachable. The next look shows more.
            with suppress(RayError, TimeoutError, OSError, StorageError):
                poll()
                if time.monotonic() - last_written >= FIGURES_SECONDS:
                    last_written = time.monotonic()
                    known = ray.get(counter.counts.remote(), timeout=30)
                    commit_progress(run, folder, label=label, figures=progress.figures())

        try:
            with every(POLL_SECONDS, follow):
                yield counter
            with suppress(RayError, TimeoutError):
                poll()
        finally:
            ray.kill(counter)
    with suppress(OSError, StorageError):
        remove_progress(run, folder)
