"""Retries of reads and writes.

A momentary failure of disk or network must not end a run of days, and a full disk must not look like one.
"""

import errno
import os
import random
import re
import shutil
import time
from collections.abc import Callable
from typing import TypeVar

from raylabel.errors import StorageError

PATIENCE_SECONDS = 60.0
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.2, 8.0

_T = TypeVar("_T")
_MOMENTARY = {
    errno.EIO, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT, errno.EPIPE, errno.ECONNRESET,
    errno.ECONNABORTED, errno.ECONNREFUSED, errno.ENETUNREACH, errno.ENETDOWN, errno.ENETRESET, errno.EHOSTUNREACH,
}  # fmt: skip
_FULL = (errno.ENOSPC, errno.EDQUOT)
_OF_THE_PATH = (errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO)
# Errors of object stores have words in place of a number. A refusal is final, because the store would repeat it.
_REFUSAL = re.compile(r"ACCESS_DENIED|ACCESS_KEY|SIGNATURE|TOKEN|Permission denied|[Cc]redential|HTTP status 40[13]")
_FINAL = re.compile(r"NO_SUCH_BUCKET|INVALID_|MALFORMED|VALIDATION|NOT_IMPLEMENTED|METHOD_NOT_ALLOWED|"
                    r"HTTP status 4(?!08|29)\d\d")  # fmt: skip
# Errors of the HTTP clients behind fsspec. They are listed by name, because some are no OSError.
_HTTP_CLIENT_ERRORS = {"ClientConnectionError", "ClientPayloadError"}


def retried(
    operation: Callable[[], _T],
    *,
    uri: str,
    doing: str,
    num_bytes: int = 0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> _T:
    """Run a repeatable operation, and retry it after momentary errors with growing waits.

    The tries end with the first one that fails `PATIENCE_SECONDS` after the first try or later. A store that refuses at
    once is thus tried for a minute, and a store that never answers ends the work in less than two minutes. The longest
    wait doubles with each try, up to `LONGEST_WAIT_SECONDS`. Each wait is drawn at random between half of it and all of
    it, so that workers do not return at once.

    Args:
        operation: the call; it may have taken effect although it failed.
        uri: file or folder that it works on, for the message.
        doing: verb for the message, such as "read" or "write".
        num_bytes: number of bytes to write, for the message.
        clock: returns seconds that never run backwards.
        sleep: waits for a number of seconds.

    Raises:
        OSError: the path is at fault: it is missing, a folder, a loop of links, or not permitted. The error is raised
            at once, as the operation raised it. PermissionError also if an object store denies access.
        StorageError: the disk is full, the store refuses for good, or the last try fails.
    """
    start, tries = clock(), 0
    while True:
        tries += 1
        try:
            return operation()
        except Exception as error:
            if not _is_of_storage(error) or _is_of_the_path(error):
                raise
            if not _is_momentary(error):
                raise _final(error, uri, doing, num_bytes) from error
            seconds = clock() - start
            if seconds >= PATIENCE_SECONDS:
                waited = f"{tries} tries in {seconds:.0f} s"
                raise StorageError(f"{uri}: could not {doing} in {waited}: {_words(error)}") from error
        longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(tries - 1, 64))
        sleep(random.uniform(longest / 2, longest))


def _is_of_storage(error: Exception) -> bool:
    is_of_http = not _HTTP_CLIENT_ERRORS.isdisjoint(one.__name__ for one in type(error).__mro__)
    return isinstance(error, OSError) or is_of_http or isinstance(getattr(error, "status", None), int)


def _is_of_the_path(error: Exception) -> bool:
    # By kind too, because fsspec raises some of them without a number.
    kinds = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
    return isinstance(error, kinds) or getattr(error, "errno", None) in _OF_THE_PATH


def _is_momentary(error: Exception) -> bool:
    number = getattr(error, "errno", None)
    if isinstance(number, int):
        return number in _MOMENTARY
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return status in (408, 429) or status >= 500
    words = str(error)
    return not (_REFUSAL.search(words) or _FINAL.search(words))


def _final(error: Exception, uri: str, doing: str, num_bytes: int) -> Exception:
    number, status = getattr(error, "errno", None), getattr(error, "status", None)
    if status in (404, 410):
        return FileNotFoundError(errno.ENOENT, _words(error), uri)
    if number in _FULL:
        return StorageError(
            f"{uri}: no space left to write {num_bytes:,} bytes{_free(uri)}. Free some space and run the same command "
            "again; committed files are kept."
        )
    if status in (401, 403) or (number is None and _REFUSAL.search(str(error))):
        return PermissionError(errno.EACCES, f"access denied: {_words(error)}", uri)
    return StorageError(f"{uri}: could not {doing}: {_words(error)}")


def _free(uri: str) -> str:
    """Return the free space as text, or "" if it is unknown."""
    folder = os.path.dirname(uri.removeprefix("file://"))
    try:
        return f" ({shutil.disk_usage(folder).free:,} bytes are free in {folder})"
    except OSError:
        return ""


def _words(error: Exception) -> str:
    """Return an error's text as one line, without the request's id."""
    words = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r" ?\(?Request ID: [^)]*\)?", "", words)
