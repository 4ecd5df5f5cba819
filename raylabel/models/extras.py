"""Packages that only some models need."""

import importlib
from types import ModuleType

from raylabel.errors import InputError


def import_extra(module: str, *, extra: str, needed_by: str) -> ModuleType:
    """Import a package of an optional dependency.

    Args:
        module: its name.
        extra: of pyproject.toml, which installs it.
        needed_by: the model or weights, for the message.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(f"{needed_by} needs {error.name}; install it with: pip install 'raylabel[{extra}]'") from error
