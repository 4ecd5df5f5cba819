"""The one exception for mistakes that the user can mend."""


class InputError(ValueError):
    """Bad input: a config key, file, image or argument that the user can mend.

    The message is one line that names what and where; the command line prints it and exits with code 2.
    """
