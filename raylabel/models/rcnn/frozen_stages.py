"""The option `frozen_stages` of pretrained bodies whose norms are frozen."""

from typing import Any

from raylabel.errors import InputError, shown


def check_frozen_stages(value: Any, *, num_stages: int) -> int:
    """Check the option `frozen_stages` of a body.

    Args:
        value: number of stages behind the stem that keep their weights; the stem keeps its weights too. -1 trains all.
        num_stages: stages of the body behind its stem.

    Raises:
        InputError: the value is not a whole number from -1 to `num_stages`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not -1 <= value <= num_stages:
        raise InputError(
            f"model_options.frozen_stages must be a whole number from -1 (nothing) to {num_stages} (the whole body), "
            f"got {shown(value)}"
        )
    return value
