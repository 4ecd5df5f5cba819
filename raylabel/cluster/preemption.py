"""Preemption notices: the cluster is about to take a machine away."""

import time

import ray.train
from ray.train.collective import broadcast_from_rank_zero

CHECK_SECONDS = 5.0
"""Seconds between two questions of the workers, roughly. Ray looks for draining machines equally often."""

MAX_STEPS = 100
"""Largest number of steps between two questions."""


class PreemptionNotice:
    """A check whether to write a checkpoint now, because a machine with workers has been told to drain.

    Every rank calls the check after every step, and all ranks get the same answer. Only some steps really ask Ray,
    because all ranks then wait for each other. The first rank chooses the next such step by the duration of its steps.
    """

    def __init__(self) -> None:
        self._asked_step: int | None = None
        self._asked_at = time.monotonic()
        self._next_step = 0
        self._known_nodes: set[str] = set()

    def __call__(self, step: int) -> bool:
        """Return whether to write a checkpoint after `step` steps. It is true once per machine."""
        if step < self._next_step:
            return False
        self._next_step = broadcast_from_rank_zero(step + self._steps_until_next(step))
        notice = ray.train.get_preemption_info()
        nodes = set(notice.preempted_node_ids) if notice else set()
        is_new = not nodes <= self._known_nodes
        self._known_nodes |= nodes
        return is_new

    def _steps_until_next(self, step: int) -> int:
        now = time.monotonic()
        steps = 1  # because the first steps are slow and tell nothing
        if self._asked_step is not None and step > self._asked_step:
            seconds_a_step = (now - self._asked_at) / (step - self._asked_step)
            steps = min(MAX_STEPS, max(1, int(CHECK_SECONDS / max(seconds_a_step, 1e-6))))
        self._asked_step, self._asked_at = step, now
        return steps
