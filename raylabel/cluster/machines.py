"""Machines that an autoscaler adds: ask for them, and wait until they have come.

A cluster whose GPU machines start only when they are asked for costs nothing while a config is checked. Ray says of no
autoscaler that it exists, so the environment of the driver says how long to wait.
"""

import os
import time
from collections.abc import Callable, Mapping

from ray.util.placement_group import placement_group, remove_placement_group

from raylabel.cluster.memory import GB
from raylabel.errors import InputError

WAIT_VARIABLE = "RAYLABEL_WAIT_FOR_MACHINES"
"""Environment variable with the seconds that a driver waits for machines. Not set, it waits for none."""

POLL_SECONDS = 5.0
"""Seconds between two looks at the cluster's machines."""

SAY_SECONDS = 30.0
"""Seconds between two lines that say what is waited for."""


def wait_for_machines(num_workers: int, each: Mapping[str, float], *, num_slots: Callable[[], int]) -> None:
    """Wait until the cluster's machines hold this many workers, if the environment says that an autoscaler adds some.

    A pending placement group tells the autoscaler what is missing. It ends with the driver, unlike a request to the
    autoscaler, so a driver that is killed keeps no machine. After the time that the environment gives, the function
    returns: the caller counts again, and refuses with both figures.

    Args:
        num_workers: workers to be placed.
        each: resources per worker, as Ray names them.
        num_slots: counts the workers that the machines hold now.

    Raises:
        InputError: the environment variable is no number of seconds.
    """
    seconds = _seconds_to_wait()
    wanted = {name: amount for name, amount in each.items() if amount > 0}
    if not seconds or not wanted or num_slots() >= num_workers:
        return
    began = said = time.monotonic()
    group = placement_group([wanted] * num_workers)
    try:
        _say(num_slots(), num_workers, wanted, seconds)
        while num_slots() < num_workers and (now := time.monotonic()) - began < seconds:
            if now - said >= SAY_SECONDS:
                said = now
                _say(num_slots(), num_workers, wanted, seconds - (now - began))
            time.sleep(POLL_SECONDS)
    finally:
        remove_placement_group(group)


def _seconds_to_wait() -> float:
    text = os.environ.get(WAIT_VARIABLE, "0")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise InputError(f"{WAIT_VARIABLE}: must be seconds from 0, got {text!r}")
    return seconds


def _say(there: int, num_workers: int, wanted: Mapping[str, float], seconds: float) -> None:
    resources = ", ".join(
        f"{amount / GB:.4g} GB" if name == "memory" else f"{amount:.4g} {name}" for name, amount in wanted.items()
    )
    print(
        f"waiting for machines: the cluster holds {there} of {num_workers} workers ({resources} each), "
        f"{seconds:.0f} s left",
        flush=True,
    )
