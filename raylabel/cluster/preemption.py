"""Notice that a machine is about to be taken away."""

import time

import ray.train
from ray.train.collective import broadcast_from_rank_zero

CHECK_SECONDS = 5.0
"""About so often workers ask; Ray looks for machines that drain as often."""

MAX_STEPS = 100
"""Between two questions."""


class PreemptionNotice:
    """Whether a checkpoint should be written now, as a machine with workers on it has been told to drain.

    Every rank asks after every step, and all get the same answer. Only some steps really ask, as all ranks have to wait
    for each other: the first rank says, by how long its steps take, which is the next.
    """

    def __init__(self) -> None:
        self._asked_step: int | None = None
        self._asked_at = time.monotonic()
        self._next_step = 0
        self._known_nodes: set[str] = set()

    def __call__(self, step: int) -> bool:
        """After so many steps; true once for each machine."""
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
        steps = 1  # the first steps are slow
        if self._asked_step is not None and step > self._asked_step:
            seconds_a_step = (now - self._asked_at) / (step - self._asked_step)
            steps = min(MAX_STEPS, max(1, int(CHECK_SECONDS / max(seconds_a_step, 1e-6))))
        self._asked_step, self._asked_at = step, now
        return steps
