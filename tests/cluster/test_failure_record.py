"""The failure record: attempts without progress, the first failure of an attempt, refusals."""

from typing import Any

import pytest

from raylabel.cluster.failure_record import ATTEMPTS, FailureRecord
from raylabel.errors import InputError, TrainingError


@pytest.fixture
def record() -> Any:
    """An instance of the actor's class, without Ray."""
    return FailureRecord.__ray_metadata__.modified_class()


def test_workers_may_start_again_while_they_come_further(record: Any) -> None:
    for step in range(50):
        assert record.begin("teacher", f"step {step} of teacher")
    assert [record.begin("teacher", "step 50 of teacher") for _ in range(ATTEMPTS)] == [True] * 4
    record.note_failure("ValueError: a defect\n  of two lines")
    record.note_failure("RuntimeError: connection closed by peer")
    assert not record.begin("teacher", "step 50 of teacher")
    message = "teacher: 4 attempts came no further than step 50 of teacher: ValueError: a defect of two lines"
    assert isinstance(record.refusal(), TrainingError)
    assert str(record.refusal()) == message
    assert not record.begin("teacher", "step 60 of teacher"), "a refusal is for good"


def test_the_first_refusal_counts(record: Any) -> None:
    record.refuse(InputError("cat.jpg: can't be read"))
    record.refuse(TrainingError("another"))
    assert not record.begin("teacher", "step 0 of teacher")
    assert isinstance(record.refusal(), InputError)
