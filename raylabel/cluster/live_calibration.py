"""The calibration actor: it sums each shard's sparse confidence histogram once, whatever is retried or killed.

The actor is a live view only. Workers send it their counts, and the driver sends the shards that it misses
(`LiveCalibration`). `raylabel status` reads the snapshot that the driver writes into the run folder. Tables and
artifacts are always computed from the shards themselves. `live_figures` turns the bins so far into figures of the raw
scores.
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
from raylabel.run.labels.ownership import ForeignShardError
from raylabel.run.live_files import commit_snapshot, remove_snapshot
from raylabel.threads import every


def live_figures(
    bins: ReliabilityBins, frequency_groups: NDArray[np.str_], *, is_matched: bool
) -> dict[str, dict[str, Any]]:
    """Compute figures of the raw scores so far, for all classes and each frequency group.

    For federated annotations the figures are provisional: images are matched and weighted one by one.
    `weigh_by_verification` improves the weights once all images are matched.

    Args:
        bins: bins of the counted shards. If the truth is unknown, `num_correct` holds the sum of the calibrated scores:
            the expected number of correct predictions if the corrector is right.
        frequency_groups: (num_classes,) "r", "c" or "f".
        is_matched: whether `num_correct` counts matches with the truth.

    Returns:
        A dict of figures for "all" and for each of "r", "c", "f" that has a class. The figures are the number of
        classes with predictions, the weight of the predictions, the mean confidence, and `accuracy`, `ccece` and
        `ccece_debiased`. Without truth: `expected_accuracy` and `expected_ccece`. A figure without predictions is None.
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
"""Seconds between two snapshots. On an object store each snapshot is one small PUT."""


_RECOUNT_SECONDS = 2.0


_ANSWER_SECONDS = 10.0


_COUNTS = ("num", "sum_confidence", "num_correct", "num_ignored")


# Ray repeats a call that a death interrupted. Every call may run twice without harm.
@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class CalibrationActor:
    """The sum of the bins of all reported shards. Each shard counts once, by its id.

    The actor holds one dense set of bins and one byte per shard. For 1,203 classes, 50 bins and a million shards that
    is 2 MB and 1 MB. After a death it restarts empty, with the same arguments.
    """

    def __init__(self, num_classes: int, num_bins: int, num_shards: int) -> None:
        self._total = ReliabilityBins.zeros(num_classes, num_bins)
        self._is_counted = np.zeros(num_shards, dtype=bool)

    def add(self, shard_id: int, bins: pa.Table) -> bool:
        """Add a shard's bins (schema.BINS without empty bins). Return False if the shard was counted before."""
        if self._is_counted[shard_id]:
            return False
        cells = bins["class_index"].to_numpy(), bins["bin"].to_numpy()
        for name in _COUNTS:
            getattr(self._total, name)[cells] += bins[name].to_numpy()
        self._is_counted[shard_id] = True
        return True

    def view(self) -> tuple[NDArray[np.uint8], pa.Table]:
        """Return which shards are counted, as `np.packbits` of (num_shards,), and the bins so far."""
        return np.packbits(self._is_counted), self._total.to_table()


class LiveCalibration:
    """The driver's side of the actor. It knows which shards are finished, and sends those that the actor misses.

    The actor misses shards that were finished before it started, that it held when it died, or whose message was lost
    with their worker. Sending again is always safe, because the actor counts each shard once.

    Attributes:
        actor: the actor, to which workers `add` their shards.
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
        """Mark these shards as finished. From now on `recount` can compute their bins."""
        self._is_finished[shard_ids if isinstance(shard_ids, int) else list(shard_ids)] = True

    def refresh(self) -> None:
        """Send the shards that the actor misses, for a limited time, and write the snapshot.

        Raises:
            RayError, TimeoutError: the actor doesn't answer in time.
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
    """Keep a live view of the raw scores inside the block, while shards are made.

    A failure of the view never reaches the work itself. The file of the view is removed at the end. It stays if the
    work is interrupted, and `status` tells its age.

    Args:
        label: part of the actor's name.
        run: the run, with its classes.json.
        folder: folder in the run that gets the file of the view.
        num_bins: confidence bins over (0, 1].
        num_shards: number of shards. Shard ids are smaller.
        is_matched: whether `num_correct` of the bins counts matches with the truth. Else it sums calibrated scores.
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
        # Errors are ignored, because the actor may be restarting, the store unreachable, or a shard another run's. The
        # next refresh sends more.
        with suppress(RayError, TimeoutError, OSError, StorageError, ForeignShardError):
            live.refresh()

    with every(SNAPSHOT_SECONDS, refresh):
        try:
            yield live
        finally:
            ray.kill(live.actor)
    with suppress(OSError, StorageError):
        remove_snapshot(run, folder)


def actor_name(label: str) -> str:
    """Return the prefix of the names of this label's actors in `NAMESPACE`. Each driver has its own actor."""
    return f"raylabel-{label}"
