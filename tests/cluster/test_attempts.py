"""Attempts of a training: which failures end it, and which start it again."""

from collections.abc import Iterator

import pytest
from ray.exceptions import ActorDiedError
from ray.train import ControllerError, WorkerGroupError

from raylabel.cluster.attempts import ATTEMPTS, repeat_while_it_comes_further
from raylabel.errors import InputError, StorageError, TrainingError


class UnhealthyError(Exception):
    """What Ray Train reports of a worker whose health it could not check."""

    def __init__(self, death: Exception) -> None:
        super().__init__()
        self.health_check_failure = death


def failed(*failures: Exception) -> WorkerGroupError:
    return WorkerGroupError("", dict(enumerate(failures)))


class Attempts:
    """Fails in turn with each of these errors, then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.asked: list[tuple[int, str]] = []
        self._errors: Iterator[Exception] = iter(errors)

    def __call__(self, number: int, reason: str) -> None:
        self.asked.append((number, reason))
        for error in self._errors:
            raise error


def test_it_starts_again_while_it_comes_further(capsys: pytest.CaptureFixture[str]) -> None:
    attempt = Attempts(*[failed(UnhealthyError(ActorDiedError()))] * 20)
    places = iter(range(100))
    repeat_while_it_comes_further("teacher", attempt, lambda: f"step {next(places)}")
    assert attempt.asked[0] == (1, "")
    assert attempt.asked[20] == (21, "a worker died")
    assert capsys.readouterr().out.splitlines()[0] == "teacher: a worker died. Starting again from step 1."


def test_attempts_that_come_no_further_end_it() -> None:
    why = failed(RuntimeError("connection closed by peer"), ValueError("a defect\n  of two lines"))
    attempt = Attempts(*[why] * 20)
    with pytest.raises(TrainingError) as raised:
        repeat_while_it_comes_further("teacher", attempt, lambda: "step 50 of teacher")
    assert len(attempt.asked) == ATTEMPTS
    assert str(raised.value) == (
        "teacher: 4 attempts came no further than step 50 of teacher: RuntimeError: connection closed by peer; "
        "ValueError: a defect of two lines"
    )


def test_attempts_are_counted_anew_at_a_new_place() -> None:
    places = iter(["step 0", "step 0", "step 0", "step 9", "step 9", "step 9", "step 9", "step 9"])
    attempt = Attempts(*[failed(UnhealthyError(ActorDiedError()))] * 20)
    with pytest.raises(TrainingError, match="no further than step 9: a worker died"):
        repeat_while_it_comes_further("teacher", attempt, lambda: next(places))
    assert len(attempt.asked) == 7


@pytest.mark.parametrize("lasting", [InputError("cat.jpg: no image"), StorageError("disk full"), TrainingError("nan")])
def test_an_error_that_lasts_ends_it_at_once(lasting: Exception) -> None:
    attempt = Attempts(failed(RuntimeError("connection closed by peer"), lasting))
    with pytest.raises(type(lasting)) as raised:
        repeat_while_it_comes_further("teacher", attempt, lambda: "step 0")
    assert raised.value is lasting
    assert len(attempt.asked) == 1


def test_why_a_worker_died(capsys: pytest.CaptureFixture[str]) -> None:
    death = ActorDiedError()
    death.args = ("Task was killed due to the node running low on memory.",)
    death.error_msg = "Task was killed due to the node running low on memory."
    errors = [
        failed(UnhealthyError(death), UnhealthyError(ActorDiedError())),
        ControllerError(ValueError("no controller")),
    ]
    repeat_while_it_comes_further("teacher", Attempts(*errors), lambda: "step 0")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "teacher: a worker was killed because its machine ran low on memory (raise memory_gb_per_worker, or lower the "
        "batch size); a worker died."
    )
    assert lines[1].startswith("teacher: ControllerError: ")
