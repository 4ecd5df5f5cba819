"""Attempts at a shard, counted for stages whose workers do not count them: a shard that kills each worker ends.

Ray starts a dead worker again without limit, because machines come and go. The labelling of the pool counts by markers
in the run folder instead, and finds the image (`run/labels/attempts.py`).
"""

from collections import Counter

import ray

MAX_DEATHS = 10
"""Deaths at one shard that end the stage. Machines are taken away far less often within one shard."""


# Ray repeats a call that a death interrupted. A count that is lost or doubled does no harm.
@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class ShardAttempts:
    """The number of times that a worker has begun each shard which is not finished."""

    def __init__(self) -> None:
        self._begun = Counter[int]()

    def begin(self, shard_id: int) -> int:
        """Count an attempt at a shard, and return how many there were before."""
        self._begun[shard_id] += 1
        return self._begun[shard_id] - 1

    def finish(self, shard_id: int) -> None:
        """Forget a shard."""
        del self._begun[shard_id]
