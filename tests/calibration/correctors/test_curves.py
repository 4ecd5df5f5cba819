"""Rising curves: continuation to the corners, pooling, centring on steps."""

import numpy as np
import pytest

from raylabel.calibration import Detections, FitContext
from raylabel.calibration.correctors.curves import curves_through, rising
from raylabel.calibration.correctors.isotonic import IsotonicCorrector


def test_curves_are_continued_on_lines_through_the_corners() -> None:
    curves = curves_through(np.array([0.5, 0.9]), np.array([[0.2, 0.45], [0.8, 0.99]]))
    rows, scores = np.array([0, 0, 1, 1]), np.array([0.0, 1.0, 0.0, 1.0])
    # Row 0: below, the line from (1, 1) gives 1 - 0.8 / 0.5 < 0, so 0; above, 0.45 / 0.9.
    # Row 1: below, 1 - 0.2 / 0.5; above, 0.99 / 0.9 > 1, so 1.
    np.testing.assert_allclose(curves(rows, scores), [0.0, 0.5, 0.6, 1.0], atol=1e-3)


def test_rising_pools_violators() -> None:
    # 3 and 1 pool to (2 * 3 + 1 * 1) / 3 with weights 2 and 1.
    np.testing.assert_allclose(
        rising(np.array([[3.0, 1, 4], [1, 2, 3]]), np.array([[2.0, 1, 1], [1, 1, 1]])), [[7 / 3, 7 / 3, 4], [1, 2, 3]]
    )


def test_centring_on_steps_by_hand() -> None:
    detections = Detections(
        num_classes=1,
        class_indices=np.zeros(4, dtype=np.int32),
        raw_scores=np.array([0.2, 0.4, 0.6, 0.8]),
        image_indices=np.arange(4),
        outcomes=np.array([0, 1, 0, 1], dtype=np.int8),
        weights=np.ones(4),
    )
    curves = IsotonicCorrector.fit(detections, FitContext(num_bins=5, frequency_groups=np.array(["r"]))).curves
    # Steps: 0 at 0.2; 1/2 at the mean of 0.4 and 0.6; 1 at 0.8; kept 1/6 from 0 and 1.
    np.testing.assert_allclose(curves.knots, [0, 0.2, 0.5, 0.8, 1])
    np.testing.assert_allclose(curves.values[0], [0, 1 / 6, 0.5, 5 / 6, 1], atol=1.1e-3)


def test_steps_are_weighed_by_hand() -> None:
    """10 right detections of weight 1 score 0.4, and 10 wrong ones of weight 3 score 0.6. They make one step."""
    is_right = np.arange(20) < 10
    detections = Detections(
        num_classes=1,
        class_indices=np.zeros(20, dtype=np.int32),
        raw_scores=np.where(is_right, 0.4, 0.6),
        image_indices=np.arange(20),
        outcomes=is_right.astype(np.int8),
        weights=np.where(is_right, 1.0, 3.0),
    )
    curves = IsotonicCorrector.fit(detections, FitContext(num_bins=5, frequency_groups=np.array(["r"]))).curves
    # The step has the mean score (10 * 0.4 + 30 * 0.6) / 40, and 10 of 40 are right.
    np.testing.assert_allclose(curves.knots, [0, 0.55, 1])
    assert curves.values[0, 1] == pytest.approx(0.25, abs=1e-3)
    wrong = detections.subset(~is_right)
    heavy = Detections(**(vars(wrong) | {"weights": np.where(np.arange(10) < 5, 1.0, 3.0)}))
    # None of 10 is right. Their effective number is 20^2 / 50 = 8, so the value stays 1 / 10 above 0.
    curves = IsotonicCorrector.fit(heavy, FitContext(num_bins=5, frequency_groups=np.array(["r"]))).curves
    assert curves.values[0, 1] == pytest.approx(0.1, abs=1e-3)
