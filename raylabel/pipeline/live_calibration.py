"""The calibration actor: gathers each shard's sparse confidence histogram once, whatever is retried.

It is a live view only. Its state is rebuilt from committed shards at any time, and totals in artifacts are always
computed from those.
"""

from typing import Any

import pyarrow as pa
import ray

from raylabel.calibration.bins import ReliabilityBins
from raylabel.storage import RunFolder, digest

NAMESPACE = "raylabel"


@ray.remote(num_cpus=0, max_restarts=-1)
class CalibrationActor:
    """Sum of the bins of all shards that were reported, each counted once by its id."""

    def __init__(self) -> None:
        self.reset(0, 1)

    def reset(self, num_classes: int, num_bins: int) -> None:
        """Start counting anew."""
        self._total = ReliabilityBins.zeros(num_classes, num_bins)
        self._shard_ids: set[int] = set()

    def add(self, shard_id: int, bins: pa.Table) -> bool:
        """Count a shard's bins (schema.BINS); False where the shard was counted before."""
        if shard_id in self._shard_ids:
            return False
        self._shard_ids.add(shard_id)
        self._total = self._total + ReliabilityBins.from_table(bins)
        return True

    def view(self) -> tuple[int, pa.Table]:
        """Number of shards counted, and the bins so far."""
        return len(self._shard_ids), self._total.to_table()


def start_calibration_actor(run: RunFolder, purpose: str, *, num_classes: int, num_bins: int) -> Any:
    """The named actor of a run and purpose (`calibrate` or `label`), with nothing counted yet."""
    actor = CalibrationActor.options(  # type: ignore[attr-defined]
        name=actor_name(run, purpose), namespace=NAMESPACE, get_if_exists=True
    ).remote()
    actor.reset.remote(num_classes, num_bins)
    return actor


def actor_name(run: RunFolder, purpose: str) -> str:
    """Name under which other drivers of the cluster find the actor."""
    return f"raylabel-{purpose}-{digest(run.uri)[:12]}"
