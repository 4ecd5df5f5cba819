"""The exceptions that end a command with one line and no traceback.

Their messages hide secrets in URIs, because they end in consoles and logs.
"""

from raylabel.redaction import redacted


class _RedactedError(Exception):
    """An exception whose message is one redacted line."""

    def __init__(self, *words: object) -> None:
        super().__init__(*(redacted(str(one)) for one in words))


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


class StorageError(_RedactedError):
    """A disk or an object store that refuses, or that fails until the last retry.

    The message is one line that names the file and the remedy. The command line prints it and exits with code 1.
    Committed files stay, and the same command continues from there.
    """


class TrainingError(_RedactedError):
    """A failure of a training that a retry does not cure, such as a loss that is not finite.

    The message is one line. The command line prints it and exits with code 1.
    """
