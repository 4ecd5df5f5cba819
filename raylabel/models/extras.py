"""Optional packages that only some models need."""

import importlib
from types import ModuleType

from raylabel.errors import InputError


def import_extra(module: str, *, extra: str, needed_by: str) -> ModuleType:
    """Import an optional package.

    Args:
        module: name of the package.
        extra: the extra of pyproject.toml that installs the package.
        needed_by: the model or weights that need the package, for the message.

    Raises:
        InputError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(f"{needed_by} needs {error.name}. Install it with: pip install 'raylabel[{extra}]'") from error
