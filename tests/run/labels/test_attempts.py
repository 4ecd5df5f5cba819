"""Attempts at a shard are counted per driver. The image that kills its worker is found, and no other is blamed."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from raylabel.dataset.image_errors import reason_kind
from raylabel.errors import InputError
from raylabel.files.reading import exists
from raylabel.run.folder import RunFolder
from raylabel.run.labels.attempts import DEATHS_AT_THE_END, KILLED_ITS_WORKER, begin_attempt, killer_status

AFTER_ALL = -1


def attempt_once(
    run: RunFolder, dies_at: Callable[[int, int], bool], *, num_images: int = 6, driver: str = "a"
) -> list[int] | None:
    """Make one attempt of a worker that may die at any (step, position) or AFTER_ALL.

    Returns the images that were left out if the worker survives, else None.
    """
    attempt = begin_attempt(run, 7, driver)
    order = attempt.order(range(num_images)) if attempt.is_careful else list(range(num_images))
    for step, position in enumerate(order):
        if attempt.is_careful:
            attempt.mark_image(step, position)
        if dies_at(step, position):
            return None
    if attempt.is_careful:
        attempt.mark_end()
    if dies_at(len(order), AFTER_ALL):
        return None
    attempt.forget()
    return sorted(attempt.killers)


def test_the_killer_is_quarantined_after_three_careful_deaths(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    outcomes = [attempt_once(run, lambda _, position: position == 3) for _ in range(6)]
    assert outcomes == [None] * 5 + [[3]]
    assert not exists(run.path("labels", "attempts", "a", "shard-00000007"))


def test_two_killers_of_one_shard_are_found(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    outcomes = [attempt_once(run, lambda _, position: position in (2, 5)) for _ in range(9)]
    assert outcomes == [None] * 8 + [[2, 5]]


def test_attempts_of_a_driver_that_was_stopped_do_not_count(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    for _ in range(4):
        attempt_once(run, lambda _, position: position == 0, driver="a")
    attempt = begin_attempt(run, 7, "b")
    assert (attempt.number, attempt.is_careful, attempt.killers) == (1, False, frozenset())


def test_an_image_that_was_got_past_is_innocent_however_many_workers_die_at_it(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    for step in (2, 2, 3, *[5] * 20):
        assert attempt_once(run, lambda now, _, step=step: now == step) is None
    assert attempt_once(run, lambda step, position: False) == []


def test_the_one_at_which_a_worker_died_is_tried_first(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    for _ in range(3):
        attempt_once(run, lambda _, position: position == 4)
    attempt = begin_attempt(run, 7, "a")
    assert attempt.order(range(6)) == [4, 5, 0, 1, 2, 3]


def test_twenty_deaths_of_one_shard_that_no_image_caused(tmp_path: Path) -> None:
    """Workers die at random steps. An image is blamed in few of the shards."""
    rng = random.Random(0)
    blamed = 0
    for trial in range(60):
        run = RunFolder(str(tmp_path / str(trial)))
        for _ in range(20):
            step = rng.randrange(9)
            attempt_once(run, lambda now, _, step=step: now == step, num_images=8)
        blamed += bool(begin_attempt(run, 7, "a").killers)
    assert blamed <= 6


def test_a_shard_whose_workers_die_behind_the_last_image_ends_the_run(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    for _ in range(2 + DEATHS_AT_THE_END):
        assert attempt_once(run, lambda _, position: position == AFTER_ALL) is None
    with pytest.raises(InputError, match=r"10 workers died after the last image of shard 7"):
        begin_attempt(run, 7, "a")


def test_the_workers_that_died_at_an_image_are_known(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    for worker in "abcde":
        attempt = begin_attempt(run, 7, "a", worker)
        if attempt.is_careful:
            attempt.mark_image(0, attempt.order([2, 4])[0])
    attempt = begin_attempt(run, 7, "a", "f")
    assert (attempt.number, attempt.killers) == (6, {2})
    assert attempt.deaths == {2: ["c", "d", "e"]}, "only careful attempts tell the image"


@pytest.mark.parametrize(
    ("for_memory", "status"),
    [
        ([], "killed its worker"),
        (
            ["20.0 of 23.5 GB in use", "22.3 of 23.5 GB in use"],
            "killed its worker: Ray killed 2 of 3 workers at this image because their machine ran low on memory (22.3 "
            "of 23.5 GB in use)",
        ),
        ([""], "killed its worker: Ray killed 1 of 3 workers at this image because their machine ran low on memory"),
    ],
)
def test_the_status_says_memory_where_ray_says_it(for_memory: list[str], status: str) -> None:
    assert killer_status(3, for_memory) == status
    assert reason_kind(status) == KILLED_ITS_WORKER
