"""Prototypes, similarity and soft targets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylabel.smoothing import PrototypeSums, class_similarity, rarity, smoothing_mass, soft_targets

COUNTS = st.lists(st.integers(0, 1000), min_size=1, max_size=12).map(np.array)


@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.integers(0, 30))
def test_prototypes_do_not_depend_on_the_partition(seed: int, num: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    embeddings, classes = rng.normal(size=(num, 4)), rng.integers(0, 3, num)
    whole = PrototypeSums.of_instances(embeddings, classes, num_classes=3)
    first, second = (
        PrototypeSums.of_instances(embeddings[part], classes[part], num_classes=3)
        for part in (slice(None, cut), slice(cut, None))
    )
    for merged in (first + second, second + first, whole + PrototypeSums.zeros(3, 4)):
        np.testing.assert_allclose(merged.sums, whole.sums, atol=1e-12)
        assert merged.counts.tolist() == whole.counts.tolist()
    lengths = np.linalg.norm(whole.prototypes(), axis=1)
    np.testing.assert_allclose(lengths, (whole.counts > 0).astype(float), atol=1e-9)


def test_each_instance_counts_the_same_whatever_its_length() -> None:
    sums = PrototypeSums.of_instances(np.array([[100.0, 0.0], [0.0, 1.0]]), np.array([0, 0]), num_classes=1)
    np.testing.assert_allclose(sums.prototypes(), [[np.sqrt(0.5), np.sqrt(0.5)]])


def test_sums_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="same shape"):
        _ = PrototypeSums.zeros(2, 3) + PrototypeSums.zeros(2, 4)


def test_centring_spreads_similarities_that_bunch() -> None:
    # Two similar classes and their opposite, around a common direction.
    offsets = np.array([[0.1, 0.01], [0.1, -0.01], [-0.1, 0.0]])
    prototypes = np.column_stack([np.ones(3), offsets])
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    assert (prototypes @ prototypes.T).min() > 0.97
    similarity = class_similarity(prototypes, np.array([5, 5, 5]))
    assert similarity[0, 1] > 0.9
    assert similarity[0, 2] < -0.9
    np.testing.assert_array_equal(similarity, similarity.T)


def test_a_class_without_instances_changes_no_similarity() -> None:
    prototypes = np.array([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6]])
    alone = class_similarity(prototypes, np.array([4, 5, 6]))
    beside = class_similarity(np.vstack([prototypes, np.zeros((5, 2))]), np.array([4, 5, 6, 0, 0, 0, 0, 0]))
    np.testing.assert_allclose(beside[:3, :3], alone)
    np.testing.assert_array_equal(beside[3:], np.eye(5, 8, 3))


@given(seed=st.integers(0, 999), num=st.integers(1, 8), num_seen=st.integers(0, 8))
def test_similarity_is_a_symmetric_cosine_that_goes_with_its_classes(seed: int, num: int, num_seen: int) -> None:
    rng = np.random.default_rng(seed)
    sums = PrototypeSums.of_instances(
        rng.normal(size=(num_seen, 5)) + 3, rng.integers(0, num, num_seen), num_classes=num
    )
    similarity = class_similarity(sums.prototypes(), sums.counts)
    assert (np.abs(similarity) <= 1).all()
    np.testing.assert_array_equal(similarity, similarity.T)
    np.testing.assert_array_equal(np.diag(similarity), 1)
    order = rng.permutation(num)
    shuffled = class_similarity(sums.prototypes()[order], sums.counts[order])
    np.testing.assert_allclose(shuffled, similarity[np.ix_(order, order)], atol=1e-9)
    # After centring, no class is similar to all others.
    seen = sums.counts > 0
    if seen.sum() > 1:
        assert (similarity[np.ix_(seen, seen)].sum(axis=1) < seen.sum()).any()


@given(COUNTS, st.floats(0, 0.5), st.floats(0.5, 1))
def test_rarer_classes_are_never_smoothed_less(counts: np.ndarray, eps_min: float, eps_max: float) -> None:
    mass = smoothing_mass(counts, eps_min, eps_max)
    assert (np.diff(mass[np.argsort(-counts, kind="stable")]) >= -1e-12).all()
    assert ((mass >= eps_min - 1e-12) & (mass <= eps_max + 1e-12)).all()


def test_unseen_classes_are_neutral() -> None:
    prototypes = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    similarity = class_similarity(prototypes, np.array([3, 3, 0]))
    assert similarity[2].tolist() == [0.0, 0.0, 1.0]
    assert class_similarity(np.zeros((2, 4)), np.array([0, 0])).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_rarity_by_its_formula() -> None:
    # log(100/100), log(100/10) / log(100/1), log(100/1) / log(100/1); a class without an image has rarity 1.
    np.testing.assert_allclose(rarity(np.array([100, 10, 1, 0])), [0.0, 0.5, 1.0, 1.0])
    assert rarity(np.array([7, 7])).tolist() == [0.0, 0.0]
    np.testing.assert_allclose(smoothing_mass(np.array([100, 10, 1]), 0.02, 0.2), [0.02, 0.11, 0.2])


@given(
    COUNTS,
    st.sampled_from(["none", "uniform", "similarity"]),
    st.floats(0, 0.5),
    st.floats(0.5, 1),
    st.floats(0.01, 10),
    st.integers(0, 99),
)
def test_targets_are_distributions_without_background(
    counts: np.ndarray, kind: str, eps_min: float, eps_max: float, tau: float, seed: int
) -> None:
    embeddings = np.random.default_rng(seed).normal(size=(len(counts), 5))
    similarity = class_similarity(embeddings, counts)
    targets = soft_targets(
        kind=kind,
        counts=counts,
        eps_min=eps_min,
        eps_max=eps_max,
        tau=tau,
        similarity=similarity,
    )
    assert targets.shape == (len(counts), len(counts) + 1)
    assert targets.dtype == np.float32
    assert (targets >= 0).all()
    assert (targets[:, -1] == 0).all()
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-5)
    if kind == "none":
        assert (targets.argmax(axis=1) == np.arange(len(counts))).all()


def test_similarity_sends_mass_to_look_alikes() -> None:
    similarity = np.array([[1.0, 0.9, -0.5], [0.9, 1.0, -0.5], [-0.5, -0.5, 1.0]])
    arguments = {"counts": np.array([1, 1, 100]), "eps_min": 0.02, "eps_max": 0.2, "tau": 0.1}
    targets = soft_targets(kind="similarity", similarity=similarity, **arguments)
    share = np.exp(9.0) / (np.exp(9.0) + np.exp(-5.0))
    np.testing.assert_allclose(targets[0], [0.8, 0.2 * share, 0.2 * (1 - share), 0.0], rtol=1e-5)
    np.testing.assert_allclose(targets[2], [0.01, 0.01, 0.98, 0.0], rtol=1e-5)
    np.testing.assert_allclose(soft_targets(kind="uniform", **arguments)[0], [0.8, 0.1, 0.1, 0.0], rtol=1e-5)


def test_similarity_needs_a_similarity() -> None:
    with pytest.raises(ValueError, match="needs the classes' similarity"):
        soft_targets(kind="similarity", counts=np.array([1, 2]), eps_min=0.0, eps_max=0.1, tau=0.1)
    with pytest.raises(ValueError, match="must be none, uniform or similarity"):
        soft_targets(kind="other", counts=np.array([1]), eps_min=0.0, eps_max=0.1, tau=0.1)
