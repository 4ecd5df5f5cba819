"""Prefetching: the next batch is read while the model learns from the current one."""

import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from raylabel.training.batches import Batch, Batches


class Prefetched:
    """Batches in order, read one ahead by a thread. Leaving the `with` block ends the thread.

    Args:
        source: the source of the batches.
        places: step and part of each batch, in the order in which they are taken.
    """

    def __init__(self, source: Batches, places: Iterable[tuple[int, int]]) -> None:
        self._source, self._places = source, iter(places)
        self._reader = ThreadPoolExecutor(max_workers=1)
        self._waiting: Future[Batch] | None = None
        self._seconds_waited = 0.0

    def __enter__(self) -> "Prefetched":
        self._read_next()
        return self

    def __exit__(self, *exception: object) -> None:
        self._reader.shutdown(cancel_futures=True)

    def take(self) -> Batch:
        """Return the next batch.

        Raises:
            InputError: an image cannot be read.
        """
        assert self._waiting is not None, "every place was taken"
        start = time.perf_counter()
        batch = self._waiting.result()
        self._seconds_waited += time.perf_counter() - start
        self._read_next()
        return batch

    def take_seconds_waited(self) -> float:
        """Return the seconds that `take` has waited since the last call of this method."""
        seconds, self._seconds_waited = self._seconds_waited, 0.0
        return seconds

    def _read_next(self) -> None:
        place = next(self._places, None)
        self._waiting = None if place is None else self._reader.submit(self._source.batch, *place)
