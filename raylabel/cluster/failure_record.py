"""The failure record of a training: why its workers failed, and whether they may start again."""

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raylabel.errors import TrainingError

ATTEMPTS = 4
"""Number of times that the workers of a training may start at the same place."""

DIED = "a worker died"


@ray.remote(num_cpus=0)
class FailureRecord:
    """The record, kept outside of the workers: how often they started, how far they got, and what ended them."""

    def __init__(self) -> None:
        self._refusal: Exception | None = None
        self._place, self._num_attempts, self._failure = "", 0, DIED

    def refuse(self, error: Exception) -> None:
        """Record an error that another attempt does not mend: one of raylabel.errors. Only the first one counts."""
        self._refusal = self._refusal or error

    def refusal(self) -> Exception | None:
        """Return the error that was refused first, if any."""
        return self._refusal

    def begin(self, label: str, place: str) -> bool:
        """Record that the workers start at a place, and return whether they may.

        They may not after a refusal, and not more than `ATTEMPTS` times in a row at the same place.
        """
        self._num_attempts = self._num_attempts + 1 if place == self._place else 1
        self._place = place
        if self._num_attempts > ATTEMPTS:
            self.refuse(TrainingError(f"{label}: {ATTEMPTS} attempts came no further than {place}: {self._failure}"))
        self._failure = DIED
        return self._refusal is None

    def note_failure(self, message: str) -> None:
        """Record why this attempt failed.

        Only the first report counts: the other ranks then fail because a peer is gone.
        """
        if self._failure == DIED:
            self._failure = " ".join(message.split())[:500]


def start_failure_record() -> Any:
    """Start a record on the driver's machine. It dies with the driver, or when its handle is gone."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return FailureRecord.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]  # of ray.remote
