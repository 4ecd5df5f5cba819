"""Transfer of scores between models, by the numbers of detections above them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from raylabel.calibration import Detections
from raylabel.calibration.score_transfer import transfer_scores

GROUPS = np.array(list("fccrrr"))
SHARES = np.array([0.6, 0.2, 0.1, 0.05, 0.03, 0.02])


def scored(class_indices: object, score_logits: object) -> Detections:
    return Detections.of_scores(class_indices, expit(np.asarray(score_logits, float)), num_classes=len(GROUPS))


def test_a_shift_of_each_group_is_found_for_common_and_rare_classes() -> None:
    rng = np.random.default_rng(0)
    classes, score_logits = rng.choice(len(GROUPS), 6000, p=SHARES), rng.normal(-1, 2, 6000)
    shift = np.array([1.0, 0.5, 0.5, -1.0, -1.0, -1.0])
    source, target = scored(classes, score_logits), scored(classes, score_logits + shift[classes])
    asked = scored([0, 0, 1, 3, 5], [0.0, 2.0, 1.0, 1.0, -1.0])
    found = transfer_scores(asked, source, target, frequency_groups=GROUPS)
    np.testing.assert_allclose(logit(found.raw_scores), [1.0, 3.0, 1.5, 0.0, -2.0], atol=0.05)


def test_a_class_that_the_other_model_finds_more_often_gets_higher_scores() -> None:
    """Numbers decide, not shares: with twice the detections, the same number lies above a higher score."""
    score_logits = np.linspace(-3, 3, 601)
    source, target = scored(np.zeros(601, int), score_logits), scored(np.zeros(1202, int), np.tile(score_logits, 2))
    found = transfer_scores(scored([0], [0.0]), source, target, frequency_groups=GROUPS)
    assert logit(found.raw_scores)[0] == pytest.approx(1.5, abs=0.1)


def test_a_rare_class_follows_its_group() -> None:
    """Two detections of class 5 say that nothing changed. Hundreds of its group say that the other model is bolder."""
    score_logits = np.linspace(-3, 3, 300)
    classes = np.where(np.arange(300) % 2 == 0, 3, 4)
    source = scored([*classes, 5, 5], [*score_logits, -1.0, 1.0])
    target = scored([*classes, 5, 5], [*score_logits + 1, -1.0, 1.0])
    found = transfer_scores(scored([5, 3], [0.5, 0.5]), source, target, frequency_groups=GROUPS)
    np.testing.assert_allclose(logit(found.raw_scores), [1.5, 1.5], atol=0.3)


def test_what_else_the_detections_say_stays() -> None:
    asked = scored([0, 1], [0.0, 1.0])
    found = transfer_scores(asked, scored([0], [0.0]), scored([0], [1.0]), frequency_groups=GROUPS)
    assert found.class_indices is asked.class_indices
    assert found.image_indices is asked.image_indices


@given(seed=st.integers(0, 10**6), num_source=st.integers(0, 40), num_target=st.integers(0, 40))
def test_scores_keep_their_order_and_their_range(seed: int, num_source: int, num_target: int) -> None:
    rng = np.random.default_rng(seed)
    source, target = (
        scored(rng.integers(0, len(GROUPS), num), rng.normal(0, 3, num)) for num in (num_source, num_target)
    )
    asked = Detections.of_scores(np.zeros(9, int), np.linspace(0, 1, 9), num_classes=len(GROUPS))
    found = transfer_scores(asked, source, target, frequency_groups=GROUPS).raw_scores
    assert (np.diff(found) >= 0).all()
    assert ((found >= 0) & (found <= 1)).all()
    same = transfer_scores(asked, source, source, frequency_groups=GROUPS).raw_scores
    np.testing.assert_allclose(same[1:-1], asked.raw_scores[1:-1], atol=1e-3)
