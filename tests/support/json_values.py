"""Any JSON value, and the odd ones that files really hold."""

from hypothesis import strategies as st

ODD_NUMBERS = [float("nan"), float("inf"), -float("inf"), 1e300, -1e12, 10**400, 2**63, -(2**63) - 1, -1, 0, 0.5, True]

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(ODD_NUMBERS)

JSON_VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=8) | st.dictionaries(st.sampled_from(["size", "counts", "id", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
)
"""Values as `json.loads` gives them, NaN and huge integers included."""


def near(valid: object) -> "st.SearchStrategy[object]":
    """Any JSON value, or a valid one in which one number is odd."""
    return JSON_VALUES | _with_one_odd(valid)


@st.composite
def _with_one_odd(draw: st.DrawFn, valid: object) -> object:
    if isinstance(valid, list) and valid:
        place = draw(st.integers(0, len(valid) - 1))
        return [draw(_with_one_odd(one)) if row == place else one for row, one in enumerate(valid)]
    if isinstance(valid, dict):
        key = draw(st.sampled_from(sorted(valid)))
        return valid | {key: draw(_with_one_odd(valid[key]))}
    return draw(_SCALARS)


@st.composite
def damaged(draw: st.DrawFn, valid: object) -> object:
    """Draw a valid value in which one part, at any depth, is missing or any JSON value."""
    what = draw(st.sampled_from(["replace", "remove", "below", "below", "below"]))
    if what == "replace" or not isinstance(valid, dict | list) or not valid:
        return draw(JSON_VALUES)
    if isinstance(valid, dict):
        key = draw(st.sampled_from(sorted(valid)))
        rest = {name: one for name, one in valid.items() if name != key}
        return rest if what == "remove" else valid | {key: draw(damaged(valid[key]))}
    place = draw(st.integers(0, len(valid) - 1))
    inner = [] if what == "remove" else [draw(damaged(valid[place]))]
    return [*valid[:place], *inner, *valid[place + 1 :]]
