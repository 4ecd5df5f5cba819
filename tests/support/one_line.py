"""Bad input gives a value or one line, never another exception."""

from collections.abc import Callable
from typing import Any

from raylabel.errors import InputError


def value_or_line(read: Callable[[], Any], refusal: type[Exception] = InputError) -> tuple[Any, str]:
    """Return the value and no line, or None and the line that refuses the input. The line must be short and one."""
    line = ""
    try:
        return read(), ""
    except refusal as error:
        line = str(error)
    assert line
    assert "\n" not in line
    assert len(line) < 400, line
    return None, line
