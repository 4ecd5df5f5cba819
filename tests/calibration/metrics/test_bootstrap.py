"""Bootstrap intervals: coverage, whole images, determinism and draws without a figure."""

import numpy as np
import pytest

from raylabel.calibration.metrics import bootstrap_interval, brier, pooled_average_precision


def test_mean_has_the_known_standard_error() -> None:
    """With one row per image, the interval of a mean is mean +- 1.96 standard errors."""
    values = np.random.default_rng(0).random(400)
    interval = bootstrap_interval(lambda times: float(times @ values / times.sum()), np.arange(400), num=2000)
    error = values.std() / np.sqrt(400)
    assert interval.num == 2000
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_rows_of_an_image_are_drawn_together() -> None:
    """Ten equal rows in each of 40 images give the interval width of 40 rows, not of 400."""
    values = np.random.default_rng(1).random(40)

    def mean_of(rows: np.ndarray) -> object:
        return lambda times: float(times @ rows / times.sum())

    of_images = bootstrap_interval(mean_of(values), np.arange(40), seed=3)
    of_rows = bootstrap_interval(mean_of(np.repeat(values, 10)), np.repeat(np.arange(40) * 7 - 5, 10), seed=3)
    assert of_rows == pytest.approx(of_images)


def test_level_and_seed() -> None:
    scores = np.random.default_rng(0).random(100)
    correct = np.random.default_rng(1).random(100) < scores

    def interval(**settings: float) -> tuple[float, float, int]:
        return bootstrap_interval(lambda times: brier(scores, correct, times), np.arange(100) % 20, num=200, **settings)

    assert interval() == interval()
    assert interval(seed=1) != interval()
    assert interval(level=0.5).low > interval().low
    assert interval(level=0.5).high < interval().high


def test_covers_the_truth() -> None:
    """Rows of an image share a difficulty. A 90% interval holds the true mean in about 90% of the samples."""
    rng = np.random.default_rng(0)
    image_indices = np.repeat(np.arange(50), 4)
    hits = 0
    for seed in range(200):
        values = np.repeat(rng.normal(size=50), 4) + rng.normal(size=200) / 4
        found = bootstrap_interval(
            lambda times, values=values: float(times @ values / times.sum()),
            image_indices,
            num=200,
            level=0.9,
            seed=seed,
        )
        hits += found.low <= 0 <= found.high
    assert 0.83 <= hits / 200 <= 0.95


def test_objects_are_drawn_with_their_images() -> None:
    """Image 0 has a right detection and image 1 a missed object, so the AP of a draw is 1, 1/2 or 0."""
    scores, correct = np.array([0.9]), np.array([True])
    seen = set()

    def figure(times: np.ndarray) -> float:
        value = pooled_average_precision(scores, correct, times[1:].sum(), weights=times[:1], interpolated=False)
        seen.add(value)
        return value

    interval = bootstrap_interval(figure, np.array([0, 0, 1]), num=100)
    assert seen == {0.0, 0.5, 1.0}
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_draws_without_a_figure_are_left_out() -> None:
    interval = bootstrap_interval(lambda times: 0.25 if times[0] else None, np.arange(3), num=300)
    assert (interval.low, interval.high) == (0.25, 0.25)
    # Image 0 is missed by a draw of three with probability (2/3)^3 = 0.296.
    assert 0.6 < interval.num / 300 < 0.8
    with pytest.raises(ValueError, match="none of the 5 draws gives a figure"):
        bootstrap_interval(lambda times: float("nan"), np.arange(3), num=5)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="no row to resample"):
        bootstrap_interval(lambda times: 1.0, np.zeros(0, dtype=int))
    with pytest.raises(ValueError, match="num must be >= 1"):
        bootstrap_interval(lambda times: 1.0, np.arange(3), num=0)
    with pytest.raises(ValueError, match=r"level must be in \(0, 1\), got 95"):
        bootstrap_interval(lambda times: 1.0, np.arange(3), level=95)
