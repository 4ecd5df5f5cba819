"""Attempts at a shard are counted for each driver; the image that kills its worker is found."""

from pathlib import Path

from raylabel.pipeline.attempts import begin_attempt
from raylabel.storage import RunFolder, exists


def die_at(run: RunFolder, killer: int, *, num_images: int, driver: str = "a") -> list[int] | None:
    """One attempt of a worker that an image kills; the images that were left out where it survives."""
    attempt = begin_attempt(run, 7, driver)
    left_out = []
    for position in range(num_images):
        if position in attempt.killers:
            left_out.append(position)
            continue
        if attempt.is_careful:
            attempt.mark_image(position)
        if position == killer:
            return None
    attempt.forget()
    return left_out


def test_the_killer_is_quarantined_after_two_careful_deaths(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    outcomes = [die_at(run, killer=3, num_images=6) for _ in range(5)]
    assert outcomes == [None, None, None, None, [3]]
    assert not exists(run.path("labels", "attempts", "a", "shard-00000007"))


def test_attempts_of_a_driver_that_was_stopped_do_not_count(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    for _ in range(4):
        die_at(run, killer=0, num_images=2, driver="a")
    attempt = begin_attempt(run, 7, "b")
    assert (attempt.number, attempt.is_careful, attempt.killers) == (1, False, frozenset())


def test_a_worker_that_goes_for_other_reasons_quarantines_nothing(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    for where in (0, 1, 2, 4):
        die_at(run, killer=where, num_images=6)
    assert begin_attempt(run, 7, "a").killers == frozenset()
