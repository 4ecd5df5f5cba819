"""Lines for the user while workers have not started, or were killed for want of memory."""

from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError

from raylabel.cluster.memory import GB, killed_for_memory, killed_text
from raylabel.config import LabelConfig

_ANSWER_SECONDS = 10


class WorkerWatch:
    """The driver's look at the workers of a stage. It says at most one line of each kind per look.

    Args:
        title: name of the work, at the start of each line.
        label: the number of workers and the resources of each.
        counter: a LiveCounter whose `start` workers call. None says nothing about workers that have not started.
    """

    def __init__(self, title: str, label: LabelConfig, counter: Any) -> None:
        self._title, self._label, self._counter = title, label, counter
        self._num_killed = len(killed_for_memory())

    def look(self) -> None:
        """Say which workers have not started and why, and that workers were killed since the last look."""
        # Errors are ignored, because the head node may be busy. The next look says it.
        with suppress(RayError, TimeoutError, OSError):
            killed = list(killed_for_memory().values())
            if new := killed[self._num_killed :]:
                self._say(killed_text(new, setting="label.memory_gb"))
            self._num_killed = max(self._num_killed, len(killed))
            if self._counter is not None:
                self._say_if_waiting()

    def _say_if_waiting(self) -> None:
        label = self._label
        assert isinstance(label.num_workers, int)
        num_started, _ = ray.get(self._counter.num_started.remote(1), timeout=_ANSWER_SECONDS)
        if num_started >= label.num_workers:
            self._counter = None  # because later starts replace dead workers
        else:
            self._say(
                waiting_text(
                    label.num_workers - num_started,
                    label.num_workers,
                    num_cpus=label.num_cpus,
                    num_gpus=label.num_gpus,
                    memory_gb=label.memory_gb,
                )
            )

    def _say(self, text: str) -> None:
        print(f"{self._title}: {text}", flush=True)


def waiting_text(num_waiting: int, num_workers: int, *, num_cpus: float, num_gpus: float, memory_gb: float) -> str:
    """Say how many workers have not started, what each needs, and what the cluster has free."""
    free = ray.available_resources()
    return (
        f"waiting for {num_waiting} of {num_workers} workers, each with {num_cpus:g} CPUs, {num_gpus:g} GPUs and "
        f"{memory_gb:g} GB of memory. Free in the cluster, on all machines together: {free.get('CPU', 0.0):g} CPUs, "
        f"{free.get('GPU', 0.0):g} GPUs and {free.get('memory', 0.0) / GB:.3g} GB"
    )
