"""Work on committed shards: as tasks on the cluster's CPUs, or on threads of the driver if there is little of it."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, TypeVar

import ray

from raylabel.cluster.session import connect
from raylabel.errors import InputError, StorageError
from raylabel.threads import map_on_threads

FEW_ITEMS = 16
"""Largest number of items for which the driver's threads are quicker than starting workers."""

_MAX_RETRIES = 10  # a task at which more workers die is at fault itself

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def map_over_shards(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[_Result]:
    """Apply a function to each item, and yield the results in order, like `threads.map_on_threads`.

    A task may run again after its worker died, so the function must be repeatable.

    Args:
        function: a function of a module, or a `partial` of one, because it goes to other machines.
        items: its arguments, such as URIs of some shards. Each should be a second of work or so.

    Raises:
        InputError, StorageError: the first that the function raises, unchanged.
    """
    if len(items) <= FEW_ITEMS:
        yield from map_on_threads(function, items)
        return
    connect()
    num_ahead = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    remaining, running = iter(items), deque[Any]()
    task = _apply.options(scheduling_strategy="SPREAD")
    try:
        running.extend(task.remote(function, item) for item in islice(remaining, num_ahead))
        while running:
            result, error = ray.get(running[0])
            running.popleft()
            if error is not None:
                raise error
            running.extend(task.remote(function, item) for item in islice(remaining, 1))
            yield result
    finally:
        for one in running:
            with suppress(Exception):
                ray.cancel(one)


@ray.remote(num_cpus=1, max_retries=_MAX_RETRIES)
def _apply(function: Callable[[Any], Any], item: Any) -> tuple[Any, Exception | None]:
    """Return the result, or the one-line error as a value, because Ray keeps only the text of an exception."""
    try:
        return function(item), None
    except (InputError, StorageError) as error:
        return None, type(error)(str(error))
