"""Attempts at a shard: how a shard that kills its worker is bounded, and the image that does it found.

Workers die for two reasons: the machine went (a spot instance), or an image took them down. Restarts are therefore
unlimited, and the shard is bounded instead. Before it starts a shard, a worker leaves a marker. From the third attempt
of one driver on it goes image by image and leaves a marker before each; an image that was the last one of two such
attempts is quarantined.
"""

from collections import Counter
from dataclasses import dataclass

from raylabel.storage import RunFolder, commit_bytes, list_files, remove

CAREFUL_FROM_ATTEMPT = 3
DEATHS_TO_QUARANTINE = 2
KILLED_ITS_WORKER = "killed its worker"


@dataclass(frozen=True, kw_only=True)
class ShardAttempt:
    """One worker's attempt at one shard.

    Attributes:
        folder: where the shard's markers are.
        number: 1 for the first attempt of this driver.
        killers: positions of images in the shard that are quarantined.
    """

    folder: str
    number: int
    killers: frozenset[int]

    @property
    def is_careful(self) -> bool:
        """Whether to go image by image."""
        return self.number >= CAREFUL_FROM_ATTEMPT

    def mark_image(self, position: int) -> None:
        """Leave a marker before an image is taken up."""
        commit_bytes(f"{self.folder}/{self.number:04d}.image-{position:08d}", b"")

    def forget(self) -> None:
        """Remove the markers: the shard is committed."""
        remove(self.folder)


def begin_attempt(run: RunFolder, shard_id: int, driver_id: str) -> ShardAttempt:
    """Leave the marker of a new attempt; those of other drivers, who were stopped perhaps on purpose, don't count."""
    folder = run.path("labels", "attempts", driver_id, f"shard-{shard_id:08d}")
    names = [info.base_name for info in list_files(folder)]
    number = 1 + sum(name.endswith(".attempt") for name in names)
    last_of_attempt: dict[str, int] = {}
    for name in names:
        attempt, kind = name.split(".", 1)
        if kind.startswith("image-"):
            last_of_attempt[attempt] = max(last_of_attempt.get(attempt, -1), int(kind.removeprefix("image-")))
    deaths = Counter(last_of_attempt.values())
    killers = frozenset(position for position, num in deaths.items() if num >= DEATHS_TO_QUARANTINE)
    commit_bytes(f"{folder}/{number:04d}.attempt", b"")
    return ShardAttempt(folder=folder, number=number, killers=killers)
