"""Detections refuse scores and weights that no corrector or bin can use."""

from dataclasses import replace

import numpy as np
import pytest

from raylabel.calibration import Detections

ONES = Detections.of_scores([0, 1, 1], [0.2, 0.0, 1.0], num_classes=2)


@pytest.mark.parametrize("score", [np.nan, np.inf, -0.1, 1.1])
def test_scores_outside_of_their_range_are_refused(score: float) -> None:
    with pytest.raises(ValueError, match=r"raw_scores must be in \[0, 1\], got"):
        replace(ONES, raw_scores=np.array([0.2, score, 1.0]))


@pytest.mark.parametrize("weight", [0.0, -1.0, np.nan, np.inf])
def test_weights_that_stand_for_nothing_are_refused(weight: float) -> None:
    """If all weights of a class were 0, it would have no mean, and its corrected scores would be NaN."""
    with pytest.raises(ValueError, match="weights must be > 0 and finite, got"):
        replace(ONES, weights=np.array([1.0, weight, 1.0]))


def test_rounding_of_single_precision_is_no_mistake() -> None:
    assert len(replace(ONES, raw_scores=np.array([0.2, 0.0, 1 + 1e-7]))) == 3
