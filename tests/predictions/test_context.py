"""Known shapes give known context features."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.masks.rle import Rle, encode_masks
from raylabel.predictions.context import CONTEXT_FEATURES, image_context

HEIGHT, WIDTH = 20, 40


def box_masks(*boxes: tuple[int, int, int, int]) -> list[Rle]:
    masks = np.zeros((len(boxes), HEIGHT, WIDTH), dtype=bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return encode_masks(masks)


def column(context: np.ndarray, name: str) -> np.ndarray:
    return context[:, CONTEXT_FEATURES.index(name)]


# Scores 0.5, 0.9, 0.8, 0.2; classes a, a, b, b. The first covers half of the second. The third lies in the first.
MASKS = box_masks((0, 0, 10, 10), (5, 0, 15, 10), (0, 0, 10, 5), (30, 10, 40, 20))
CLASSES, SCORES = np.array([0, 0, 1, 1]), np.array([0.5, 0.9, 0.8, 0.2])
FOUND = image_context(CLASSES, SCORES, MASKS)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("area_share", np.log([100 / 800, 100 / 800, 50 / 800, 100 / 800])),
        ("box_fill", [1, 1, 1, 1]),
        ("box_width", [0.25] * 4),
        ("box_height", [0.5, 0.5, 0.25, 0.5]),
        ("center_x", [5 / 40, 10 / 40, 5 / 40, 35 / 40]),
        ("center_y", [0.25, 0.25, 0.125, 0.75]),
        ("rank", [2, 0, 1, 3]),
        ("num_higher_same", [1, 0, 0, 1]),
        ("image_top_score", [0.9] * 4),
        # Masks 0 and 1 share 50 of 150 pixels, 0 and 2 share 50 of 100, 1 and 2 share 25 of 125.
        ("iou_higher_same", [1 / 3, 0, 0, 0]),
        ("iou_higher_other", [0.5, 0, 0.2, 0]),
        ("iou_lower_same", [0, 1 / 3, 0, 0]),
        ("iou_lower_other", [0, 0.2, 0.5, 0]),
        ("overlap_same", [0.9 / 3, 0.5 / 3, 0, 0]),
        ("overlap_other", [0.8 * 0.5, 0.8 * 0.2, 0.5 * 0.5 + 0.9 * 0.2, 0]),
        ("rival", [0, 0.8 * 0.2, 0.5 * 0.5, 0]),
    ],
)
def test_known_shapes(name: str, expected: list[float]) -> None:
    np.testing.assert_allclose(column(FOUND, name), expected, rtol=1e-6)


def test_raggedness_is_high_for_a_comb() -> None:
    masks = np.zeros((2, HEIGHT, WIDTH), dtype=bool)
    masks[0, 5:15, 10:30] = True
    masks[1, ::2, 10:30] = True
    smooth, comb = column(image_context(np.array([0, 0]), np.array([0.9, 0.8]), encode_masks(masks)), "raggedness")
    assert comb > 3 * smooth


def test_what_only_a_model_knows_is_nan_without_it() -> None:
    for name in ("mask_quality", "background", "runner_up"):
        assert np.isnan(column(FOUND, name)).all()
    soft_vectors = np.array([[0.5, 0.1, 0.4], [0.9, 0.06, 0.04], [0.15, 0.8, 0.05], [0.1, 0.2, 0.7]])
    quality = np.array([0.6, 0.7, 0.8, 0.9])
    full = image_context(CLASSES, SCORES, MASKS, mask_quality=quality, soft_vectors=soft_vectors)
    np.testing.assert_allclose(column(full, "mask_quality"), quality, rtol=1e-6)
    np.testing.assert_allclose(column(full, "background"), [0.4, 0.04, 0.05, 0.7], rtol=1e-6)
    np.testing.assert_allclose(column(full, "runner_up"), [0.1, 0.06, 0.15, 0.1], rtol=1e-6)
    assert not np.isnan(full).any()


def test_edges() -> None:
    assert image_context(np.zeros(0, int), np.zeros(0), []).shape == (0, len(CONTEXT_FEATURES))
    [alone] = image_context(np.array([3]), np.array([0.4]), box_masks((1, 1, 2, 2)))
    assert alone[CONTEXT_FEATURES.index("rank")] == 0
    assert alone[CONTEXT_FEATURES.index("overlap_other")] == 0
    empty = image_context(np.array([0, 0]), np.array([0.4, 0.3]), encode_masks(np.zeros((2, HEIGHT, WIDTH), bool)))
    known = [name not in ("mask_quality", "background", "runner_up") for name in CONTEXT_FEATURES]
    assert np.isfinite(empty[:, known]).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num=st.integers(1, 9))
def test_the_order_given_does_not_matter(seed: int, num: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, (WIDTH // 2, HEIGHT // 2), (num, 2))
    masks = box_masks(*[(x, y, x + rng.integers(1, 15), y + rng.integers(1, 10)) for x, y in corners])
    classes, scores = rng.integers(0, 3, num), rng.permutation(num) / num
    shuffled = rng.permutation(num)
    found = image_context(classes, scores, masks)
    again = image_context(classes[shuffled], scores[shuffled], [masks[place] for place in shuffled])
    np.testing.assert_allclose(again, found[shuffled], rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num=st.integers(1, 12))
def test_detections_below_the_lowest_score_are_no_context(seed: int, num: int) -> None:
    """The others have the context that they would have without them."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, (WIDTH // 2, HEIGHT // 2), (num, 2))
    masks = box_masks(*[(x, y, x + rng.integers(1, 15), y + rng.integers(1, 10)) for x, y in corners])
    classes, scores = rng.integers(0, 3, num), (rng.permutation(num) / num).astype(np.float32)
    is_seen = scores >= np.float32(0.4)
    alone = image_context(classes[is_seen], scores[is_seen], [masks[row] for row in np.flatnonzero(is_seen)])
    together = image_context(classes, scores, masks, min_score=0.4)
    np.testing.assert_allclose(together[is_seen], alone, rtol=1e-6)


def test_scores_that_single_precision_cannot_tell_apart_rank_in_the_given_order() -> None:
    """Stored scores are single, and a stored table must give the same ranks."""
    found = image_context(np.array([0, 0]), np.array([0.5, 0.5 + 1e-9]), box_masks((0, 0, 5, 5), (0, 0, 5, 5)))
    assert column(found, "rank").tolist() == [0, 1]
    assert column(found, "num_higher_same").tolist() == [0, 1]


def test_the_models_own_features_by_hand() -> None:
    """Background is the last entry. The runner-up is the best other class, not the background."""
    soft_vectors = np.array([[0.6, 0.1, 0.3], [0.2, 0.1, 0.7]], np.float32)
    found = image_context(
        np.array([0, 1]),
        np.array([0.6, 0.1]),
        box_masks((0, 0, 5, 5), (9, 0, 14, 5)),
        mask_quality=np.array([0.8, 0.4], np.float32),
        soft_vectors=soft_vectors,
    )
    np.testing.assert_allclose(column(found, "mask_quality"), [0.8, 0.4], rtol=1e-6)
    np.testing.assert_allclose(column(found, "background"), [0.3, 0.7], rtol=1e-6)
    np.testing.assert_allclose(column(found, "runner_up"), [0.1, 0.2], rtol=1e-6)
