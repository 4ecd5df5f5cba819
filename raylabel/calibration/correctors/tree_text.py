"""A check of LightGBM's text form of trees, because LightGBM trusts the text and crashes or hangs if it is wrong."""

from typing import TypeVar

from raylabel.errors import shown

Number = TypeVar("Number", int, float)

_FIRST, _END = "\nTree=", "\nend of trees"
_OF_SPLITS = (
    "split_feature",
    "split_gain",
    "threshold",
    "decision_type",
    "left_child",
    "right_child",
    "internal_value",
    "internal_weight",
    "internal_count",
)
_OF_LEAVES = ("leaf_value", "leaf_weight", "leaf_count")


def check_trees(text: str, num_features: int) -> None:
    """Check that a text describes binary trees on numeric features.

    Args:
        text: LightGBM's model in its text form, as `Booster.model_to_string` writes it.
        num_features: number of columns that the trees may look at.

    Raises:
        ValueError: it does not. The message is one line.
    """
    start, end = text.find(_FIRST) + 1, text.find(_END) + 1
    if not 0 < start < end:
        raise ValueError("has no trees")
    header = _fields(text[:start])
    trees = [f"Tree={tree}" for tree in text[start:end].split("Tree=")[1:]]
    if _numbers(header, "tree_sizes", int) != [len(tree.encode()) for tree in trees]:
        raise ValueError("tree_sizes must be the lengths of the trees")
    for number, tree in enumerate(trees):
        try:
            _check_tree(_fields(tree), num_features)
        except ValueError as error:
            raise ValueError(f"tree {number}: {error}") from None


def _check_tree(fields: dict[str, str], num_features: int) -> None:
    if [fields.get("num_cat"), fields.get("is_linear")] != ["0", "0"]:
        raise ValueError("must have numeric splits and constant leaves")
    [num_leaves] = _numbers(fields, "num_leaves", int)
    lengths = dict.fromkeys(_OF_SPLITS, num_leaves - 1) | dict.fromkeys(_OF_LEAVES, num_leaves)
    if num_leaves == 1:
        lengths["leaf_weight"] = 0  # LightGBM writes no weight for it
    for name, length in lengths.items():
        if len(_numbers(fields, name, float)) != length:
            raise ValueError(f"{name} must be {length} numbers, got {shown(fields[name])}")
    left, right = (_numbers(fields, name, int) for name in ("left_child", "right_child"))
    # LightGBM numbers splits from the root on, and leaf i as -1 - i. So each child occurs once, after its parent.
    children = [one for one in range(-num_leaves, num_leaves - 1) if one]
    if sorted(left + right) != (children if num_leaves > 1 else []):
        raise ValueError("each split and leaf must be the child of one split")
    if any(0 < child <= split for side in (left, right) for split, child in enumerate(side)):
        raise ValueError("a split must come after its parent")
    if not all(0 <= feature < num_features for feature in _numbers(fields, "split_feature", int)):
        raise ValueError(f"must look at {num_features} features, got {shown(fields['split_feature'])}")
    if any(kind & 1 for kind in _numbers(fields, "decision_type", int)):
        raise ValueError("must have numeric splits, got a categorical one")


def _fields(text: str) -> dict[str, str]:
    return {name: value for name, _, value in (line.partition("=") for line in text.split("\n"))}


def _numbers(fields: dict[str, str], name: str, kind: type[Number]) -> list[Number]:
    text = fields.get(name, "none")
    try:
        if "_" not in text:  # Python's numbers may have underscores
            return [kind(value) for value in text.split()]
    except ValueError:
        pass
    raise ValueError(f"{name} must be numbers, got {shown(text)}")
