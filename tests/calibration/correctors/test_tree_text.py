"""Damaged trees are refused before LightGBM reads them, which would end the process or never return."""

import re

import lightgbm
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_line import value_or_line
from raylabel.calibration.correctors.tree_text import check_trees

NUM_FEATURES = 4


def fitted(**settings: int) -> str:
    """Fit six small trees; return their text."""
    rng = np.random.default_rng(0)
    columns = rng.random((500, NUM_FEATURES)).astype(np.float32)
    is_right = (columns[:, 0] + 0.3 * rng.random(500) > 0.7).astype(np.float32)
    fixed = {"objective": "binary", "num_leaves": 8, "verbosity": -1, "num_threads": 1}
    return str(lightgbm.train(fixed | settings, lightgbm.Dataset(columns, label=is_right), 6).model_to_string())


TEXT = fitted()


def test_trees_of_any_size_pass() -> None:
    check_trees(TEXT, NUM_FEATURES)
    alone = fitted(min_data_in_leaf=400)
    assert "num_leaves=1\n" in alone
    check_trees(alone, NUM_FEATURES)


@pytest.mark.parametrize(
    ("pattern", "instead", "message"),
    [
        (r"tree_sizes=\d", "tree_sizes=0", "tree_sizes must be the lengths of the trees"),
        (r"num_leaves=\d", "num_leaves=7", "tree 0: split_feature must be 6 numbers, got "),
        (r"num_leaves=\d", "num_leaves=x", "tree 0: num_leaves must be numbers, got 'x'"),
        (r"num_cat=0", "num_cat=1", "tree 0: must have numeric splits and constant leaves"),
        (r"left_child=1", "left_child=0", "tree 0: each split and leaf must be the child of one split"),
        (r"split_feature=\d", "split_feature=7", "tree 0: must look at 4 features"),
        (r"decision_type=2", "decision_type=3", "tree 0: must have numeric splits, got a categorical one"),
        (r"leaf_weight=\d", "leaf_weight=x", "tree 0: leaf_weight must be numbers"),
        (r"split_gain=\d", "split_gain=_", "tree 0: split_gain must be numbers"),
        (r"\nTree=", "\nRoot=", "tree_sizes|has no trees"),
        (r"\nend of trees", "\n", "has no trees"),
    ],
)
def test_damage_is_named(pattern: str, instead: str, message: str) -> None:
    damaged = re.sub(pattern, instead, TEXT, count=1)
    assert damaged != TEXT
    with pytest.raises(ValueError, match=message):
        check_trees(damaged, NUM_FEATURES)


def test_a_circle_of_splits_is_refused() -> None:
    """Each split occurs once, but the second and the third are each other's child."""
    tree = (
        "Tree=0\nnum_leaves=4\nnum_cat=0\nsplit_feature=0 0 0\nsplit_gain=1 1 1\nthreshold=1 1 1\n"
        "decision_type=2 2 2\nleft_child=-1 2 1\nright_child=-2 -3 -4\nleaf_value=1 1 1 1\nleaf_weight=1 1 1 1\n"
        "leaf_count=1 1 1 1\ninternal_value=1 1 1\ninternal_weight=1 1 1\ninternal_count=1 1 1\nis_linear=0\n\n\n"
    )
    with pytest.raises(ValueError, match="tree 0: a split must come after its parent"):
        check_trees(f"tree\ntree_sizes={len(tree)}\n\n{tree}end of trees\n", NUM_FEATURES)


@given(place=st.integers(0, len(TEXT) - 1), sign=st.sampled_from("0123456789 -=.e_\nx"))
def test_any_sign_gives_a_value_or_one_line(place: int, sign: str) -> None:
    damaged = TEXT[:place] + sign + TEXT[place + 1 :]
    value_or_line(lambda: check_trees(damaged, NUM_FEATURES), ValueError)
