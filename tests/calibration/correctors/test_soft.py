"""Correction of full soft vectors."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raylabel.calibration.correctors.soft import correct_soft_vectors


def test_the_rest_keeps_its_proportions() -> None:
    found = correct_soft_vectors(np.array([[0.6, 0.1, 0.3]]), np.array([0]), np.array([0.2]))
    np.testing.assert_allclose(found, [[0.2, 0.2, 0.6]], atol=1e-6)
    assert found.dtype == np.float32


def test_a_certain_vector_gives_to_the_background() -> None:
    found = correct_soft_vectors(np.array([[0.0, 1.0, 0.0]]), np.array([1]), np.array([0.7]))
    np.testing.assert_allclose(found, [[0.0, 0.7, 0.3]], atol=1e-6)


def test_no_vector() -> None:
    assert correct_soft_vectors(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0)).shape == (0, 4)


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(2, 6))
def test_rows_stay_distributions(seed: int, num: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.dirichlet(np.full(width, 0.1), num)
    classes, scores = rng.integers(0, width - 1, num), rng.choice([0.0, 1.0, 0.3], num)
    before = vectors.copy()
    found = correct_soft_vectors(vectors, classes, scores)
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found[np.arange(num), classes], scores, atol=1e-6)
    np.testing.assert_array_equal(vectors, before)
