"""The lease of a run: one driver per run, kept alive by a heartbeat. Workers check the lease before each commit.

RUN/driver.json names the driver, and RUN/heartbeat-ID.json is its heartbeat. A second driver is refused while the first
driver's heartbeat moves, and takes the run over when the heartbeat stops. A driver that was only suspended finds on
waking that it has lost the run. Its heartbeat is a file of its own, so a write that was under way takes nothing back.
"""

import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any

from pyarrow import fs

from raylabel.errors import InputError, StorageError
from raylabel.files.file_systems import open_uri
from raylabel.files.file_tree import remove_temporary
from raylabel.files.json_files import commit_json, read_json_object
from raylabel.files.moving import remove
from raylabel.redaction import redacted
from raylabel.run.folder import RunFolder
from raylabel.threads import every

LEASE = "driver.json"

HEARTBEAT_SECONDS = 5.0
WATCH_SECONDS = 15.0
"""Seconds without a heartbeat after which a driver counts as dead."""

SETTLE_SECONDS = {"local": 0.2, "remote": 2.0}
"""Seconds between writing the lease and reading it back. The last writer wins."""


@cache
def this_driver() -> str:
    """Return the driver id of this process."""
    return uuid.uuid4().hex[:12]


def read_lease(run: RunFolder) -> dict[str, Any] | None:
    """Read the lease: `driver_id`, `host`, `pid`, `started`, `process` and `heartbeat`, a number that grows.

    The driver may be dead. None if no driver holds the run.
    """
    holder = _holder(run)
    return {"heartbeat": 0} | holder | (_read(run, _heartbeat(holder["driver_id"])) or {}) if holder else None


def _holder(run: RunFolder) -> dict[str, Any] | None:
    """Read who holds the run. A damaged file names nobody."""
    lease = _read(run, LEASE)
    is_whole = lease is not None and all(
        isinstance(lease.get(name), kind) for name, kind in (("driver_id", str), ("host", str), ("pid", int))
    )
    return lease if is_whole else None


def _read(run: RunFolder, name: str) -> dict[str, Any] | None:
    try:
        content = read_json_object(run.path(name))
    except InputError:
        return None  # it is not there, or a driver is writing it
    return content


def _heartbeat(driver_id: str) -> str:
    return f"heartbeat-{driver_id}.json"


def check_lease(run: RunFolder, driver_id: str) -> None:
    """Check before a commit that the driver still holds the run.

    Raises:
        InputError: another driver holds the run, or none does.
    """
    lease = _holder(run)
    if lease is None or lease["driver_id"] != driver_id:
        reason = f"{_describe(lease)} has taken it over" if lease else "the run has no driver any more"
        raise InputError(f"{run.uri}: {reason}. This driver stops; its commits stay.")


@contextmanager
def hold_lease(run: RunFolder) -> Iterator[str]:
    """Hold the run's lease inside the block, and yield the driver id. Nested calls in the same process do nothing.

    Temporary files of dead writers are removed at the start and at the end.

    Raises:
        InputError: another driver is at work on the run.
    """
    if _is_mine(run):
        yield this_driver()
        return
    try:
        _acquire(run)
        with _released_on_sigterm(), every(HEARTBEAT_SECONDS, partial(_beat, run, count(1))):
            remove_temporary(run.uri)
            yield this_driver()
    finally:
        _release(run)


@contextmanager
def _released_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block by an exception, so that the next driver need not wait for the heartbeat to stop."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit("raylabel: stopped by SIGTERM"))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _is_mine(run: RunFolder) -> bool:
    lease = _holder(run)
    return lease is not None and lease["driver_id"] == this_driver()


def _release(run: RunFolder) -> None:
    with suppress(OSError, StorageError):  # a lease left behind only delays the next driver by some seconds
        remove(run.path(_heartbeat(this_driver())))
        if _is_mine(run):
            remove_temporary(run.uri)  # because workers may have died meanwhile
            remove(run.path(LEASE))


def _acquire(run: RunFolder) -> None:
    mine = {
        "driver_id": this_driver(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "process": _process(os.getpid()),
    }
    lease = read_lease(run)
    if lease is not None and not _is_dead(lease):
        _watch(run, lease)
    file_system, _ = open_uri(run.uri)
    commit_json(run.path(LEASE), mine)
    time.sleep(SETTLE_SECONDS["local" if isinstance(file_system, fs.LocalFileSystem) else "remote"])
    if not _is_mine(run):
        raise _refusal(run, _holder(run))
    if lease is not None:
        remove(run.path(_heartbeat(lease["driver_id"])))


def _watch(run: RunFolder, lease: dict[str, Any]) -> None:
    """Wait until the run is free, or refuse if its heartbeat moves."""
    print(f"{redacted(run.uri)}: {_describe(lease)} may be at work on this run; waiting for its heartbeat", flush=True)
    end = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < end:
        time.sleep(min(1.0, WATCH_SECONDS / 10))
        latest = read_lease(run)
        if latest is None:
            return
        if latest != lease:
            raise _refusal(run, latest)


def _beat(run: RunFolder, numbers: Iterator[int]) -> None:
    # A lost lease stays lost, because workers see it before their next commit. An unreachable store may answer the next
    # beat.
    with suppress(OSError, StorageError):
        if _is_mine(run):
            commit_json(run.path(_heartbeat(this_driver())), {"heartbeat": next(numbers)})


def _is_dead(lease: dict[str, Any]) -> bool:
    """Whether the driver ran on this machine, seen as from here, and its process is gone.

    A host name does not say that: two containers of one machine, or two machines, may have the same.
    """
    process, here = lease.get("process"), _process(os.getpid())
    if not isinstance(process, list) or here is None or process[:2] != here[:2]:
        return False
    return _process(lease["pid"]) != process


def _process(pid: int) -> list[str] | None:
    """Return the machine's boot, the PID namespace and the start time of a process. None if there's no such process.

    A number of a process is taken again sooner or later, but not with the same start time. None on systems without
    `/proc`.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # The name of the program, in brackets, may hold blanks. The start time is the 20th field behind it.
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return [boot, os.readlink("/proc/self/ns/pid"), started]
    except (OSError, IndexError):
        return None


def _refusal(run: RunFolder, lease: dict[str, Any] | None) -> InputError:
    return InputError(
        f"{run.uri}: {_describe(lease)} is at work on this run. Wait for its end or stop it."
        if lease
        else f"{run.uri}: another driver took the run and left it again. Start again."
    )


def _describe(lease: dict[str, Any]) -> str:
    return f"process {lease['pid']} on {lease['host']} (a driver since {lease.get('started')})"
