"""Attempts at a shard: limit the attempts at a shard that kills its worker, and find the image that does it.

Workers die for two reasons: the machine is gone (a spot instance), or an image kills them. Worker restarts are
therefore unlimited, and the attempts at a shard are limited instead.

A worker writes a marker before it starts a shard. From the driver's third attempt on, the worker takes the images one
by one and writes a marker before each. An image at which workers died comes first in the next attempt. Images that no
attempt has finished come next. An image that kills its worker does so again, and is quarantined after three deaths. An
image that an attempt has finished is innocent. Markers name the workers, because Ray knows which of them it killed for
want of memory.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from raylabel.errors import InputError
from raylabel.files.committing import commit_bytes
from raylabel.files.moving import remove
from raylabel.files.reading import list_files
from raylabel.run.folder import RunFolder
from raylabel.run.labels.shards import LABELS_FOLDER

CAREFUL_FROM_ATTEMPT = 3
DEATHS_TO_QUARANTINE = 3
DEATHS_AT_THE_END = 10
"""Deaths after the last image of a shard that end the run. Little happens there, so this many are no chance."""

KILLED_ITS_WORKER = "killed its worker"

_ATTEMPTS, _ATTEMPT = "attempts", "attempt"


@dataclass(frozen=True, kw_only=True)
class ShardAttempt:
    """One worker's attempt at one shard.

    Attributes:
        folder: folder of the shard's markers.
        number: 1 for the first attempt of this driver.
        deaths: ids of the workers that died in earlier attempts, by the position of the image at which they died.
        survived: positions of images that an earlier attempt has finished.
    """

    folder: str
    number: int
    deaths: Mapping[int, Sequence[str]]
    survived: frozenset[int]

    @property
    def is_careful(self) -> bool:
        """Whether the worker takes the images one by one."""
        return self.number >= CAREFUL_FROM_ATTEMPT

    @property
    def killers(self) -> frozenset[int]:
        """Positions of images that are quarantined."""
        return frozenset(
            position
            for position, workers in self.deaths.items()
            if len(workers) >= DEATHS_TO_QUARANTINE and position not in self.survived
        )

    def order(self, positions: Iterable[int]) -> list[int]:
        """Sort the positions without the quarantined images, the most doubtful first."""
        left = set(positions) - self.killers
        return sorted(left, key=lambda one: (one in self.survived, -len(self.deaths.get(one, ())), one))

    def mark_image(self, step: int, position: int) -> None:
        """Write a marker before the image at `position` is read as the `step`-th."""
        commit_bytes(f"{self.folder}/{self.number:04d}.image-{step:08d}-{position:08d}", b"")

    def mark_end(self) -> None:
        """Write a marker after the last image, because a worker that dies later has finished every image."""
        commit_bytes(f"{self.folder}/{self.number:04d}.end", b"")

    def forget(self) -> None:
        """Remove the markers once the shard is committed."""
        remove(self.folder)


def killer_status(num_deaths: int, for_memory: Sequence[str]) -> str:
    """Return the status of an image at which workers died.

    Args:
        num_deaths: number of those workers.
        for_memory: how full the machine was when Ray killed one of them for want of memory, in the order of the deaths.
    """
    if not for_memory:
        return KILLED_ITS_WORKER
    usage = f" ({for_memory[-1]})" if for_memory[-1] else ""
    num_killed = f"{len(for_memory)} of {num_deaths} workers"
    return f"{KILLED_ITS_WORKER}: Ray killed {num_killed} at this image because their machine ran low on memory{usage}"


def begin_attempt(run: RunFolder, shard_id: int, driver_id: str, worker_id: str = "") -> ShardAttempt:
    """Write the marker of a new attempt. Attempts of other drivers do not count: users may have stopped them.

    Args:
        run: the run folder.
        shard_id: the shard.
        driver_id: id of the driver's lease.
        worker_id: Ray's id of the worker.

    Raises:
        InputError: too many workers died after the last image of the shard.
    """
    folder = run.path(LABELS_FOLDER, _ATTEMPTS, driver_id, f"shard-{shard_id:08d}")
    markers = sorted(tuple(info.base_name.split(".", 1)) for info in list_files(folder))
    taken_up: dict[str, list[int]] = {}
    for attempt, kind in markers:
        if kind.startswith("image-"):
            taken_up.setdefault(attempt, []).append(int(kind.rsplit("-", 1)[1]))
    ended = {attempt for attempt, kind in markers if kind == "end"}
    if len(ended) >= DEATHS_AT_THE_END:
        raise InputError(
            f"{run.uri}: {len(ended)} workers died after the last image of shard {shard_id}, before the shard was "
            "written. Lower label.shard_size: fewer images per shard need less memory."
        )
    workers = {attempt: kind.partition("-")[2] for attempt, kind in markers if kind.startswith(_ATTEMPT)}
    deaths: dict[int, list[str]] = {}
    for attempt, positions in taken_up.items():
        if attempt not in ended:
            deaths.setdefault(positions[-1], []).append(workers.get(attempt, ""))
    survived = {
        position
        for attempt, positions in taken_up.items()
        for position in (positions if attempt in ended else positions[:-1])
    }
    number = 1 + len(workers)
    commit_bytes(f"{folder}/{number:04d}.{_ATTEMPT}-{worker_id}", b"")
    return ShardAttempt(folder=folder, number=number, deaths=deaths, survived=frozenset(survived))


def forget_attempts(run: RunFolder) -> None:
    """Remove the markers of all attempts at all shards."""
    remove(run.path(LABELS_FOLDER, _ATTEMPTS))
