"""Attempts at a shard: how a shard that kills its worker is bounded, and the image that does it found.

Workers die for two reasons: the machine went (a spot instance), or an image took them down. Restarts are therefore
unlimited, and the shard is bounded instead. Before it starts a shard, a worker leaves a marker. From the third attempt
of one driver on it goes image by image and leaves a marker before each. An image that workers died at comes first in
the next attempt, those that no attempt has got past yet come next. An image that takes its worker down does so again,
and is quarantined after three deaths; one that is got past was innocent.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from raylabel.errors import InputError
from raylabel.files.storage import commit_bytes, list_files, remove
from raylabel.run.folder import RunFolder
from raylabel.run.labels.shards import LABELS_FOLDER

CAREFUL_FROM_ATTEMPT = 3
DEATHS_TO_QUARANTINE = 3
DEATHS_AT_THE_END = 10
"""After the last image little is done: so many deaths there are no chance."""

KILLED_ITS_WORKER = "killed its worker"

_ATTEMPTS = "attempts"


@dataclass(frozen=True, kw_only=True)
class ShardAttempt:
    """One worker's attempt at one shard.

    Attributes:
        folder: where the shard's markers are.
        number: 1 for the first attempt of this driver.
        deaths: of earlier attempts, by the position of the image that they were at.
        survived: positions of images that an earlier attempt got past.
    """

    folder: str
    number: int
    deaths: Counter[int]
    survived: frozenset[int]

    @property
    def is_careful(self) -> bool:
        """Whether to go image by image."""
        return self.number >= CAREFUL_FROM_ATTEMPT

    @property
    def killers(self) -> frozenset[int]:
        """Positions of images that are quarantined."""
        return frozenset(
            position
            for position, num in self.deaths.items()
            if num >= DEATHS_TO_QUARANTINE and position not in self.survived
        )

    def order(self, positions: Iterable[int]) -> list[int]:
        """In which order to take up images, without the quarantined ones: the most doubtful first."""
        left = set(positions) - self.killers
        return sorted(left, key=lambda one: (one in self.survived, -self.deaths[one], one))

    def mark_image(self, step: int, position: int) -> None:
        """Leave a marker before an image is taken up as the `step`-th."""
        commit_bytes(f"{self.folder}/{self.number:04d}.image-{step:08d}-{position:08d}", b"")

    def mark_end(self) -> None:
        """Leave a marker behind the last image: who dies now has got past it."""
        commit_bytes(f"{self.folder}/{self.number:04d}.end", b"")

    def forget(self) -> None:
        """Remove the markers: the shard is committed."""
        remove(self.folder)


def begin_attempt(run: RunFolder, shard_id: int, driver_id: str) -> ShardAttempt:
    """Leave the marker of a new attempt; those of other drivers, who were stopped perhaps on purpose, don't count.

    Raises:
        InputError: too many workers died when all images were done.
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
            f"{run.uri}: {len(ended)} workers died after the last image of shard {shard_id}, before it was written; "
            "fewer images a shard (label.shard_size) need less memory"
        )
    deaths = Counter(positions[-1] for attempt, positions in taken_up.items() if attempt not in ended)
    survived = {
        position
        for attempt, positions in taken_up.items()
        for position in (positions if attempt in ended else positions[:-1])
    }
    number = 1 + sum(kind == "attempt" for _, kind in markers)
    commit_bytes(f"{folder}/{number:04d}.attempt", b"")
    return ShardAttempt(folder=folder, number=number, deaths=deaths, survived=frozenset(survived))


def forget_attempts(run: RunFolder) -> None:
    """Remove the markers of all attempts at all shards."""
    remove(run.path(LABELS_FOLDER, _ATTEMPTS))
