"""The calibration actor: gathers each shard's sparse confidence histogram once, whatever is retried or killed.

It is a live view only. Workers send it what they counted, the driver puts right what it misses (`LiveCalibration`), and
`raylabel status` reads the snapshot that the driver leaves in the run folder. Tables and artifacts are always computed
from the shards themselves. `live_figures` turns the bins so far into figures of the raw scores.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.exceptions import RayError

from raylabel.calibration.bins import ReliabilityBins
from raylabel.calibration.metrics.binned import ccece, group_masks
from raylabel.errors import StorageError
from raylabel.run.classes import load_classes
from raylabel.run.folder import RunFolder
from raylabel.run.live_files import commit_snapshot, remove_snapshot
from raylabel.threads import every


def live_figures(
    bins: ReliabilityBins, frequency_groups: NDArray[np.str_], *, is_matched: bool
) -> dict[str, dict[str, Any]]:
    """Figures of the raw scores so far, for all classes and each frequency group.

    Of federated annotations they are provisional: the weights are those of images matched one by one, on which
    `weigh_by_verification` improves once all are there.

    Args:
        bins: of the shards that were counted. Where the truth is unknown, `num_correct` holds the sum of the calibrated
            scores: the number that is right if the corrector is.
        frequency_groups: (num_classes,) "r", "c" or "f".
        is_matched: whether `num_correct` counts matches with the truth.

    Returns:
        "all", "r", "c", "f" (those with a class) -> number of classes with predictions, weight of the predictions, mean
        confidence, and `accuracy`, `ccece`, `ccece_debiased`, or without truth `expected_accuracy` and
        `expected_ccece`. None stands for a figure that no prediction gives.
    """
    return {
        name: _group_figures(bins.of_classes(mask), is_matched=is_matched)
        for name, mask in group_masks(frequency_groups).items()
    }


def _group_figures(bins: ReliabilityBins, *, is_matched: bool) -> dict[str, Any]:
    num = float(bins.num.sum())
    figures = {
        "num_classes": int((bins.num.sum(axis=1) > 0).sum()),
        "num_predictions": num,
        "mean_confidence": float(bins.sum_confidence.sum()) / num if num else None,
    }
    prefix = "" if is_matched else "expected_"
    figures[f"{prefix}accuracy"] = float(bins.num_correct.sum()) / num if num else None
    figures[f"{prefix}ccece"] = ccece(bins, min_count=0) if num else None
    if is_matched:
        figures["ccece_debiased"] = ccece(bins, min_count=0, debiased=True) if num else None
    return figures


NAMESPACE = "raylabel"


SNAPSHOT_SECONDS = 5.0
"""Between two snapshots; on an object store each is one small PUT."""


_RECOUNT_SECONDS = 2.0


_ANSWER_SECONDS = 10.0


_COUNTS = ("num", "sum_confidence", "num_correct", "num_ignored")


# A call that a death interrupted is made again: every one of them may run twice without harm.
@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class CalibrationActor:
    """Sum of the bins of all shards that were reported, each counted once by its id.

    It holds one dense set of bins and one byte a shard, whatever is reported: for 1,203 classes, 50 bins and a million
    shards that is 2 MB and 1 MB. Started again after a death it is empty, with the same arguments.
    """

    def __init__(self, num_classes: int, num_bins: int, num_shards: int) -> None:
        self._total = ReliabilityBins.zeros(num_classes, num_bins)
        self._is_counted = np.zeros(num_shards, dtype=bool)

    def add(self, shard_id: int, bins: pa.Table) -> bool:
        """Count a shard's bins (schema.BINS, empty ones left out); False where the shard was counted before."""
        if self._is_counted[shard_id]:
            return False
        cells = bins["class_index"].to_numpy(), bins["bin"].to_numpy()
        for name in _COUNTS:
            getattr(self._total, name)[cells] += bins[name].to_numpy()
        self._is_counted[shard_id] = True
        return True

    def view(self) -> tuple[NDArray[np.uint8], pa.Table]:
        """Which shards are counted, as `np.packbits` of (num_shards,), and the bins so far."""
        return np.packbits(self._is_counted), self._total.to_table()


class LiveCalibration:
    """The driver's side of the actor: knows which shards are finished, and sends those that the actor misses.

    The actor misses shards that were made before it started, that it held when it died, or whose message was lost with
    their worker. Since it counts each once, sending again is always safe.

    Attributes:
        actor: for workers, to `add` their shards to.
    """

    def __init__(
        self,
        label: str,
        *,
        run: RunFolder,
        folder: str,
        num_bins: int,
        num_shards: int,
        is_matched: bool,
        recount: Callable[[int], pa.Table],
    ) -> None:
        groups = load_classes(run).frequency_groups
        self.actor: Any = CalibrationActor.options(  # type: ignore[attr-defined]  # of ray.remote
            name=f"{actor_name(label)}-{uuid.uuid4().hex[:12]}", namespace=NAMESPACE
        ).remote(len(groups), num_bins, num_shards)
        self._run, self._folder = run, folder
        self._frequency_groups, self._is_matched = groups, is_matched
        self._is_finished = np.zeros(num_shards, dtype=bool)
        self._recount = recount

    def finished(self, shard_ids: int | Iterable[int]) -> None:
        """These shards are done: from now on `recount` can tell their bins."""
        self._is_finished[shard_ids if isinstance(shard_ids, int) else list(shard_ids)] = True

    def refresh(self) -> None:
        """Send what the actor misses, for a limited time, and write the snapshot.

        Raises:
            RayError, TimeoutError: the actor doesn't answer now.
            OSError: a file can't be read or written.
        """
        is_counted, bins = self._view()
        missing = np.flatnonzero(self._is_finished & ~is_counted)
        if len(missing):
            end = time.monotonic() + _RECOUNT_SECONDS
            for shard_id in missing.tolist():
                self.actor.add.remote(shard_id, self._recount(shard_id))
                if time.monotonic() > end:
                    break
            is_counted, bins = self._view()
        commit_snapshot(
            self._run,
            self._folder,
            shards_counted=int(is_counted.sum()),
            shards_total=len(is_counted),
            groups=live_figures(bins, self._frequency_groups, is_matched=self._is_matched),
            is_matched=self._is_matched,
        )

    def _view(self) -> tuple[NDArray[np.bool_], ReliabilityBins]:
        packed, table = ray.get(self.actor.view.remote(), timeout=_ANSWER_SECONDS)
        is_counted = np.unpackbits(packed, count=len(self._is_finished)).astype(bool)
        return is_counted, ReliabilityBins.from_table(table)


@contextmanager
def live_calibration(
    label: str,
    *,
    run: RunFolder,
    folder: str,
    num_bins: int,
    num_shards: int,
    is_matched: bool,
    recount: Callable[[int], pa.Table],
) -> Iterator[LiveCalibration]:
    """Keep a live view of the raw scores while shards are made.

    Nothing that happens to the view reaches the work itself. The file of the view is removed in the end, and stays if
    the work is interrupted: `status` tells its age.

    Args:
        label: part of the actor's name.
        run: the run, with its classes.json.
        folder: folder in the run that gets the file of the view.
        num_bins: confidence bins over (0, 1].
        num_shards: shard ids are below it.
        is_matched: whether `num_correct` of the bins counts matches, or sums what the corrector expects.
        recount: returns the bins (schema.BINS) of a finished shard, from its stored rows. Called in another thread.
    """
    live = LiveCalibration(
        label,
        run=run,
        folder=folder,
        num_bins=num_bins,
        num_shards=num_shards,
        is_matched=is_matched,
        recount=recount,
    )

    def refresh() -> None:
        # The actor is being restarted, or the store is out of reach: the next look shows more.
        with suppress(RayError, TimeoutError, OSError, StorageError):
            live.refresh()

    with every(SNAPSHOT_SECONDS, refresh):
        try:
            yield live
        finally:
            ray.kill(live.actor)
    with suppress(OSError, StorageError):
        remove_snapshot(run, folder)


def actor_name(label: str) -> str:
    """Return how the names of the actors of this label in `NAMESPACE` begin. Each driver has its own actor."""
    return f"raylabel-{label}"
