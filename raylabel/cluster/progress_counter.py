"""The progress counter: workers anywhere report to one actor, and the driver shows the sum on its progress line."""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raylabel.cluster.prometheus import ImagesLeft
from raylabel.errors import StorageError, TrainingError
from raylabel.progress import Counts, Progress
from raylabel.run.folder import RunFolder
from raylabel.run.live_files import commit_progress, remove_progress

FIGURES_SECONDS = 5.0
"""Between two times that a driver leaves its figures in the run; on an object store each is one small PUT."""


ATTEMPTS = 4
"""Times that the workers of a training may start without coming further than before."""


DIED = "a worker died"


KEYS_HELD = 4096
"""Keys that a counter remembers: more than there are workers, by far."""


@ray.remote(num_cpus=0)
class LiveCounter:
    """Takes counts from workers anywhere on the cluster for the driver's progress line, and why they can't go on.

    A key (a shard, a model) counts as it was reported last: what is made again doesn't count twice. Only the keys that
    were heard of last are remembered, so memory doesn't grow with the pool.
    """

    def __init__(self) -> None:
        self._total = Counts(done=0)
        self._by_key: OrderedDict[str, Counts] = OrderedDict()
        self._refusal: Exception | None = None
        self._place, self._num_attempts, self._failure = "", 0, DIED

    def report(
        self, key: str, done: int, instances: int | None = None, quarantined: int | None = None, note: str = ""
    ) -> None:
        """`key` has so much done in all, with so many instances and quarantined images where the stage counts them."""
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
        """Sum over keys, with the last note."""
        return self._total

    def refuse(self, error: Exception) -> None:
        """A worker met what trying again does not mend: one of raylabel.errors."""
        self._refusal = self._refusal or error

    def refusal(self) -> Exception | None:
        """What was refused first, if anything."""
        return self._refusal

    def begin(self, label: str, place: str) -> bool:
        """Workers start, for the first time or again, at a place; whether they may.

        They may as often as they will, but `ATTEMPTS` times at the same place, or after a refusal.
        """
        self._num_attempts = self._num_attempts + 1 if place == self._place else 1
        self._place = place
        if self._num_attempts > ATTEMPTS:
            self.refuse(TrainingError(f"{label}: {ATTEMPTS} attempts came no further than {place}: {self._failure}"))
        self._failure = DIED
        return self._refusal is None

    def note_failure(self, message: str) -> None:
        """Why this attempt ends; what is said first counts, as the others then fail for want of a partner."""
        if self._failure == DIED:
            self._failure = " ".join(message.split())[:500]


def _replaced(total: int | None, new: int | None, old: int | None) -> int | None:
    """A sum with `new` in place of `old`; None as long as nothing was counted."""
    return total if new is None else (total or 0) + new - (old or 0)


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
    counter = LiveCounter.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]  # of ray.remote
    stop = threading.Event()
    images_left = ImagesLeft(run) if label == "label" else None
    with Progress(label, total, unit=unit, done=done) as progress:

        def poll() -> None:
            counts: Counts = ray.get(counter.total.remote(), timeout=30)
            if counts.num_quarantined is not None:
                counts = replace(counts, num_quarantined=quarantined + counts.num_quarantined)
            all_done = min(total, done + counts.done)
            progress.show(replace(counts, done=all_done))
            if images_left:
                images_left.show(total - all_done)

        def follow() -> None:
            last_written = -math.inf
            while not stop.wait(0.5):
                try:
                    poll()
                    if time.monotonic() - last_written >= FIGURES_SECONDS:
                        last_written = time.monotonic()
                        commit_progress(run, folder, label=label, figures=progress.figures())
                except (RayError, TimeoutError, OSError, StorageError):
                    # A busy driver or a store out of reach: the next round shows more.
                    continue

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield counter
            stop.set()
            thread.join()
            with suppress(RayError, TimeoutError):
                poll()
        finally:
            stop.set()
            thread.join()
            ray.kill(counter)
    with suppress(OSError, StorageError):
        remove_progress(run, folder)
