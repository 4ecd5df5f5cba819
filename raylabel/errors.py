"""The exceptions that end a command with one line and no traceback."""


class InputError(ValueError):
    """Bad input: a config key, file, image or argument that the user can mend.

    The message is one line that names what and where; the command line prints it and exits with code 2.
    """


class NoDetectionError(InputError):
    """A model found nothing on the images on which it was to be calibrated."""


class StorageError(Exception):
    """A disk or an object store refused, or failed for longer than trying again lasted.

    The message is one line that names the file and the remedy; the command line prints it and exits with code 1. What
    was committed stays, and the same command goes on from there.
    """


class TrainingError(Exception):
    """A training that trying again does not mend, such as a loss that is not finite.

    The message is one line; the command line prints it and exits with code 1.
    """
