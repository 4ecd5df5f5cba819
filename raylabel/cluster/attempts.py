"""Attempts of a training: it starts again after a failure, as long as it comes further."""

from collections.abc import Callable
from itertools import count

from ray.exceptions import RayActorError
from ray.train import TrainingFailedError, WorkerGroupError

from raylabel.errors import InputError, StorageError, TrainingError, shown_error

ATTEMPTS = 4
"""Number of attempts that may end at the same place."""

_LASTING = (InputError, StorageError, TrainingError)
"""Errors that another attempt does not mend."""


def repeat_while_it_comes_further(label: str, attempt: Callable[[int, str], object], place: Callable[[], str]) -> None:
    """Repeat an attempt until it succeeds.

    The driver judges by the files of the run alone. So no process besides it must live, and any worker may die at any
    time.

    Args:
        label: name of the training, for messages.
        attempt: trains with Ray Train, without its own retries. It gets its number, from 1, and why the attempt before
            ended, which is empty at first.
        place: returns the place from which an attempt starts, such as a step.

    Raises:
        InputError, StorageError, TrainingError: a worker met an error that another attempt does not mend, or `ATTEMPTS`
            attempts in a row came no further.
    """
    here, num_here, reason = place(), 0, ""
    for number in count(1):
        try:
            attempt(number, reason)
        except TrainingFailedError as error:
            failures = worker_failures(error)
        else:
            return
        for failure in failures:
            if isinstance(failure, _LASTING):
                raise failure from None
        reason = "; ".join(dict.fromkeys(map(_described, failures)))
        before, here = here, place()
        num_here = num_here + 1 if here == before else 0
        if num_here == ATTEMPTS:
            raise TrainingError(f"{label}: {ATTEMPTS} attempts came no further than {here}: {reason}")
        print(f"{label}: {reason}. Starting again from {here}.", flush=True)


def worker_failures(error: TrainingFailedError) -> list[Exception]:
    """Return what the workers failed of, in the order of their ranks; or the error itself if no worker failed."""
    if not isinstance(error, WorkerGroupError):
        return [error]
    # The death of a worker comes inside of Ray Train's report that its health could not be checked.
    return [getattr(one, "health_check_failure", one) for _, one in sorted(error.worker_failures.items())]


def _described(failure: Exception) -> str:
    if isinstance(failure, RayActorError):
        is_for_memory = "running low on memory" in str(failure)  # the words of Ray's memory monitor
        if is_for_memory:
            remedy = "raise memory_gb_per_worker, or lower the batch size"
            return f"a worker was killed because its machine ran low on memory ({remedy})"
        return "a worker died"
    return shown_error(f"{type(failure).__name__}: {failure}")
