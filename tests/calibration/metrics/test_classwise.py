"""Class-wise errors of soft vectors: by hand, and against the binary errors of other libraries per column."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylabel.calibration import Detections, ReliabilityBins
from raylabel.calibration.metrics import ccece, classwise_ece


def vectors(seed: int, num: int, num_classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(num_classes, 0.5), num), rng.integers(0, num_classes, num)


def test_by_hand() -> None:
    # Two bins. Class 0: {0.2 no, 0.4 yes} |0.6 - 1|, {0.9 yes} |0.9 - 1|: 0.5 / 3.
    # Class 1: {0.1 no, 0.5 no} 0.6, {0.7 yes} 0.3: 0.9 / 3. Class 2 is always 0.1, never true: 0.3 / 3, less 0.1 + 0.1.
    probabilities = np.array([[0.2, 0.7, 0.1], [0.4, 0.5, 0.1], [0.9, 0.1, 0.0]])
    errors = classwise_ece(probabilities, np.array([1, 0, 0]), num_bins=2)
    np.testing.assert_allclose(errors, [0.5 / 3, 0.9 / 3, 0.2 / 3])
    # Equal mass: class 0 has places 1/6, 1/2, 5/6, so bins {0.2 no} and {0.4 yes, 0.9 yes}: 0.2 + 0.7.
    errors = classwise_ece(probabilities, np.array([1, 0, 0]), num_bins=2, equal_mass=True)
    assert errors[0] == pytest.approx((0.2 + 0.7) / 3)


@pytest.mark.parametrize("equal_mass", [False, True])
def test_equals_netcal_column_by_column(equal_mass: bool) -> None:
    netcal = pytest.importorskip("netcal.metrics")
    probabilities, labels = vectors(0, 300)
    metric = netcal.ECE(bins=15, equal_intervals=not equal_mass)
    theirs = [metric.measure(probabilities[:, index], (labels == index).astype(int)) for index in range(4)]
    np.testing.assert_allclose(classwise_ece(probabilities, labels, equal_mass=equal_mass), theirs, atol=1e-12)


def test_equals_torchmetrics_column_by_column() -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    torch = pytest.importorskip("torch")
    probabilities, labels = vectors(1, 300)
    theirs = [
        float(
            functional.binary_calibration_error(
                torch.tensor(probabilities[:, index]), torch.tensor((labels == index).astype(int)), n_bins=15
            )
        )
        for index in range(4)
    ]
    np.testing.assert_allclose(classwise_ece(probabilities, labels), theirs, atol=1e-6)


def test_it_is_not_ccece() -> None:
    """CCECE shows that one class is always wrong. Class-wise ECE is diluted by all other rows."""
    num = 1000
    probabilities = np.tile([0.98, 0.02], (num, 1))
    labels = np.zeros(num, dtype=int)
    labels[:20] = 1
    probabilities[20:30] = [0.1, 0.9]
    predicted = probabilities.argmax(axis=1)
    detections = Detections(
        num_classes=2,
        class_indices=predicted.astype(np.int32),
        raw_scores=probabilities.max(axis=1),
        image_indices=np.arange(num),
        outcomes=(predicted == labels).astype(np.int8),
        weights=np.ones(num),
    )
    assert ccece(ReliabilityBins.from_detections(detections, 15).of_classes(np.array([False, True]))) == pytest.approx(
        0.9
    )
    # Its column: 10 rows of 0.9, all wrong (9), and 990 of 0.02 of which 20 are right (|19.8 - 20|).
    assert classwise_ece(probabilities, labels)[1] == pytest.approx((9 + 0.2) / 1000)


@given(st.integers(0, 10_000), st.integers(1, 30))
def test_weights_are_repeats(seed: int, num: int) -> None:
    probabilities, labels = vectors(seed, num)
    weights = np.random.default_rng(seed).integers(0, 4, num)
    if not weights.any():
        return
    for equal_mass in (False, True):
        weighted = classwise_ece(probabilities, labels, weights=weights, num_bins=5, equal_mass=equal_mass)
        repeated = classwise_ece(
            np.repeat(probabilities, weights, axis=0), np.repeat(labels, weights), num_bins=5, equal_mass=equal_mass
        )
        np.testing.assert_allclose(weighted, repeated, atol=1e-12)
        assert ((weighted >= 0) & (weighted <= 1)).all()


def test_wrong_arrays_are_refused() -> None:
    probabilities, labels = vectors(0, 5)
    with pytest.raises(ValueError, match=r"probabilities must have shape \(N, C\)"):
        classwise_ece(probabilities[:, 0], labels)
    with pytest.raises(ValueError, match=r"labels must have shape \(5,\)"):
        classwise_ece(probabilities, labels[:4])
    with pytest.raises(ValueError, match="labels must be in 0 to 3, got 4 to 4"):
        classwise_ece(probabilities, np.full(5, 4))
    with pytest.raises(ValueError, match="labels must be whole numbers"):
        classwise_ece(probabilities, labels / 2)
    with pytest.raises(ValueError, match=r"probabilities must be in \[0, 1\]"):
        classwise_ece(probabilities * 3, labels)
    with pytest.raises(ValueError, match="probabilities must be finite"):
        classwise_ece(np.full((5, 4), np.nan), labels)
    with pytest.raises(ValueError, match="no row"):
        classwise_ece(np.zeros((0, 4)), np.zeros(0, dtype=int))
