"""The exceptions that end a command with one line and no traceback, and how such a line shows a value.

Messages hide secrets in URIs, because they end in consoles and logs.
"""

import reprlib
from collections.abc import Sequence
from typing import Any

from raylabel.redaction import redacted

_MAX_SHOWN = 100
_MAX_SHOWN_ERROR = 200
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother, _REPR.maxlong = 2, 80, 80, 60


def shown(value: Any) -> str:
    """Return a value of a user's file as a message shows it: its `repr`, at most 100 characters in one line.

    Examples:
        >>> from raylabel.errors import shown
        >>> shown([1, "a"]), len(shown(list(range(1000)))) < 100
        ("[1, 'a']", True)
    """
    text = _REPR.repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."


def shown_name(value: Any) -> str:
    """Return an id or a key as a message names it: text without quotes, unless it is long or not printable."""
    text = str(value)
    return text if len(text) <= _MAX_SHOWN and text.isprintable() else shown(value)


def shown_error(error: BaseException | str) -> str:
    """Return the message of another library's error in one line of at most 200 characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= _MAX_SHOWN_ERROR else f"{text[: _MAX_SHOWN_ERROR - 3]}..."


def some_of(texts: Sequence[str], *, most: int = 10) -> str:
    """Join texts with commas, and count those behind the first `most`.

    Examples:
        >>> from raylabel.errors import some_of
        >>> some_of(["a", "b"]), some_of(["a", "b", "c", "d"], most=2)
        ('a, b', 'a, b and 2 more')
    """
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


class _RedactedError(Exception):
    """An exception whose message is one redacted line."""

    def __init__(self, *words: object) -> None:
        # Names of files may have line breaks.
        super().__init__(*("\\n".join(redacted(str(one)).splitlines()) for one in words))


class InputError(_RedactedError, ValueError):
    """Bad input that the user can correct: a config key, file, image or argument.

    The message is one line that names the place and what is wrong. The command line prints it and exits with code 2.

    Examples:
        >>> import raylabel as rl
        >>> try:
        ...     rl.load_config("absent.yaml")
        ... except rl.InputError as error:
        ...     print(error)
        absent.yaml: no such config file
    """


class NoDetectionError(InputError):
    """A model without a single detection on the images on which it should be calibrated."""


class ModelError(InputError):
    """A model that raises an exception where the work can't go on without its result.

    Attributes:
        traceback: traceback of the model's exception. `execute_stage` writes it to a file of the run.
    """

    def __init__(self, message: str, traceback: str) -> None:
        super().__init__(message)
        self.traceback = redacted(traceback)


class StorageError(_RedactedError):
    """A disk or an object store that refuses, or that fails until the last retry.

    The message is one line that names the file and the remedy. The command line prints it and exits with code 1.
    Committed files stay, and the same command continues from there.
    """


class TrainingError(_RedactedError):
    """A failure of a training that a retry does not cure, such as a loss that is not finite.

    The message is one line. The command line prints it and exits with code 1.
    """
