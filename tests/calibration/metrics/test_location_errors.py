"""D-ECE: by hand, against netcal, and its limits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylabel.calibration import Detections, ReliabilityBins
from raylabel.calibration.metrics import box_features, d_ece, ece


def sample(seed: int, num: int, num_features: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = rng.random(num)
    return scores, rng.random(num) < scores, rng.random((num, num_features))


def test_by_hand() -> None:
    # One bin of confidence, two of the feature: left 0.6 and 0.8, one right |1.4 - 1|; right 0.5 wrong.
    scores, correct = np.array([0.6, 0.8, 0.5]), np.array([True, False, False])
    features = np.array([[0.1], [0.5], [0.9]])
    assert d_ece(scores, correct, features, num_bins=(1, 2)) == pytest.approx((0.4 + 0.5) / 3)
    # The right cell weighs 3: (0.4 + 1.5) / 5. A cell below 3 detections is left out of the sum only: 1.5 / 5.
    weights = np.array([1.0, 1.0, 3.0])
    assert d_ece(scores, correct, features, num_bins=(1, 2), weights=weights) == pytest.approx(1.9 / 5)
    assert d_ece(scores, correct, features, num_bins=(1, 2), weights=weights, min_count=3) == pytest.approx(1.5 / 5)


@pytest.mark.parametrize(
    ("num", "num_features", "num_bins", "threshold"),
    [(500, 1, 10, 1), (500, 2, 5, 1), (400, 4, 5, 1), (500, 2, 5, 8), (300, 2, (7, 3, 4), 1)],
)
def test_equals_netcal(num: int, num_features: int, num_bins: int | tuple[int, ...], threshold: int) -> None:
    netcal = pytest.importorskip("netcal.metrics")
    scores, correct, features = sample(num, num, num_features)
    theirs = netcal.ECE(bins=num_bins, detection=True, sample_threshold=threshold).measure(
        np.column_stack([scores, features]), correct.astype(int)
    )
    ours = d_ece(scores, correct, features, num_bins=num_bins, min_count=threshold)
    assert ours == pytest.approx(theirs, abs=1e-12)


@given(st.integers(0, 10_000), st.integers(1, 80), st.integers(0, 3))
def test_finer_cells_never_lower_it(seed: int, num: int, num_features: int) -> None:
    """D-ECE without features is ECE. Halving a cell can only split gaps that cancelled."""
    scores, correct, features = sample(seed, num, num_features)
    detections = Detections(
        num_classes=1,
        class_indices=np.zeros(num, dtype=np.int32),
        raw_scores=scores,
        image_indices=np.arange(num),
        outcomes=correct.astype(np.int8),
        weights=np.ones(num),
    )
    plain = ece(ReliabilityBins.from_detections(detections, 4))
    coarse, fine = (d_ece(scores, correct, features, num_bins=bins) for bins in (4, 8))
    rounding = 2**-28  # quantum of the sums in bins
    assert d_ece(scores, correct, np.zeros((num, 0)), num_bins=4) == pytest.approx(plain, abs=rounding)
    assert plain <= coarse + rounding <= fine + 2 * rounding <= 1 + 3 * rounding


def test_more_cells_than_memory_holds() -> None:
    """With 400^5 cells and one detection per cell, D-ECE is the mean of |score - outcome|."""
    scores, correct, features = sample(0, 200, 4)
    assert d_ece(scores, correct, features, num_bins=400) == pytest.approx(np.abs(scores - correct).mean())


def test_wrong_arrays_are_refused() -> None:
    scores, correct, features = sample(0, 5, 2)
    with pytest.raises(ValueError, match=r"features must have shape \(5, K\)"):
        d_ece(scores, correct, features[:4])
    with pytest.raises(ValueError, match=r"features must be in \[0, 1\]"):
        d_ece(scores, correct, features * 40)
    with pytest.raises(ValueError, match="num_bins must be a number >= 1 or 3 of them"):
        d_ece(scores, correct, features, num_bins=(5, 5))
    with pytest.raises(ValueError, match="num_bins gives more cells than can be numbered"):
        d_ece(scores, correct, features, num_bins=10**7)
    with pytest.raises(ValueError, match="no detection"):
        d_ece(np.zeros(0), np.zeros(0, dtype=bool), np.zeros((0, 2)))


def test_box_features_are_relative_to_the_image() -> None:
    boxes = np.array([[10.0, 20, 30, 60], [-10, 0, 300, 50]])
    # The image is 100 high and 200 wide. The second box is cut to (0, 0, 200, 50).
    expected = [[0.1, 0.4, 0.1, 0.4], [0.5, 0.25, 1.0, 0.5]]
    np.testing.assert_allclose(box_features(boxes, (100, 200)), expected)
    sizes = np.array([[100, 200], [50, 400]])
    np.testing.assert_allclose(box_features(boxes, sizes)[1], [0.375, 0.5, 0.75, 1.0])
    assert box_features(np.zeros((0, 4)), (1, 1)).shape == (0, 4)
    for wrong, message in (((1, 2, 3), "image_sizes_hw must have shape"), ((0, 5), "image_sizes_hw must be > 0")):
        with pytest.raises(ValueError, match=message):
            box_features(boxes, wrong)
    with pytest.raises(ValueError, match=r"boxes_xyxy must have shape \(N, 4\)"):
        box_features(boxes[0], (1, 1))
