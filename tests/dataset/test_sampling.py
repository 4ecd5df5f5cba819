"""Repeat-factor sampling follows the formula and resumes exactly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylabel.dataset.sampling import RepeatFactorSampler, class_repeat_factors, repeat_factors


def test_factors_show_their_arithmetic():
    # f_0 = 4/4, f_1 = 1/4; with t = 0.5: r_0 = max(1, sqrt(0.5)) = 1, r_1 = sqrt(0.5 / 0.25) = 1.4142.
    image_classes = [np.array([0]), np.array([0, 0]), np.array([0, 1, 1]), np.array([0])]
    np.testing.assert_allclose(repeat_factors(image_classes, 3, 0.5), [1, 1, np.sqrt(2), 1])
    np.testing.assert_array_equal(repeat_factors(image_classes, 3, 0.0), np.ones(4))


def test_image_without_objects_has_factor_one():
    np.testing.assert_array_equal(repeat_factors([np.array([], int), np.array([1])], 2, 0.0001), [1, 1])


@given(
    image_classes=st.lists(st.lists(st.integers(0, 5), max_size=4), min_size=1, max_size=12),
    threshold=st.floats(0, 1),
)
def test_factors_hold_their_promises(image_classes: list[list[int]], threshold: float) -> None:
    arrays = [np.array(classes, int) for classes in image_classes]
    of_class = class_repeat_factors(arrays, 6, threshold)
    of_image = repeat_factors(arrays, 6, threshold)
    assert (of_class >= 1).all()
    counts = np.array([sum(index in classes for classes in image_classes) for index in range(6)])
    seen = np.flatnonzero(counts)
    assert (np.diff(of_class[seen][np.argsort(counts[seen], kind="stable")]) <= 1e-12).all(), "rarer is not drawn less"
    for classes, factor in zip(image_classes, of_image, strict=True):
        assert factor == max([1.0, *(of_class[index] for index in classes)])
    assert (repeat_factors(arrays, 6, threshold / 2) <= of_image).all()


factors = st.lists(st.floats(1, 5), min_size=1, max_size=30).map(np.array)


@given(factors, st.integers(1, 9), st.integers(0, 2**31), st.integers(0, 500))
def test_batches_are_a_function_of_the_step(factors, batch_size, seed, step):
    first = RepeatFactorSampler(factors, batch_size, seed)
    for earlier in range(3):
        first.batch(earlier)
    again = RepeatFactorSampler(factors, batch_size, seed).batch(step)
    np.testing.assert_array_equal(first.batch(step), again)
    assert again.dtype == np.int64
    assert again.shape == (batch_size,)
    assert again.min() >= 0
    assert again.max() < len(factors)


@given(factors, st.integers(0, 100))
def test_an_epoch_draws_every_image_floor_or_ceil_of_its_share(factors, seed):
    sampler = RepeatFactorSampler(factors, 1, seed)
    assert sampler.epoch_length == np.ceil(np.cumsum(factors)[-1])
    drawn = np.concatenate([sampler.batch(step) for step in range(sampler.epoch_length)])
    expected = factors * sampler.epoch_length / factors.sum()
    counts = np.bincount(drawn, minlength=len(factors))
    assert (counts >= np.floor(expected - 1e-9)).all()
    assert (counts <= np.ceil(expected + 1e-9)).all()


def test_long_run_frequencies_follow_the_factors():
    factors = np.array([1.0, 1.3, 2.6, 1.0])
    sampler = RepeatFactorSampler(factors, 8, seed=3)
    drawn = np.concatenate([sampler.batch(step) for step in range(1500)])
    np.testing.assert_allclose(np.bincount(drawn) / len(drawn), factors / factors.sum(), atol=0.006)


def test_batch_size_does_not_change_the_sequence():
    factors = np.linspace(1, 3, 11)
    one, many = RepeatFactorSampler(factors, 1, 0), RepeatFactorSampler(factors, 10, 0)
    np.testing.assert_array_equal(
        np.concatenate([one.batch(step) for step in range(60)]), np.concatenate([many.batch(step) for step in range(6)])
    )


@pytest.mark.parametrize(("num_images", "batch_size"), [(0, 1), (3, 0)])
def test_bad_arguments(num_images, batch_size):
    with pytest.raises(ValueError, match="needs images"):
        RepeatFactorSampler(np.ones(num_images), batch_size, 0)
