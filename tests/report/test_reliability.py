"""Reliability diagrams draw the content of the bins: points, intervals and counts are read back."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import beta

from raylabel.calibration.bins import ReliabilityBins
from raylabel.calibration.detections import Detections
from raylabel.report.page_titles import page_titles
from raylabel.report.plots import AFTER, BEFORE, png
from raylabel.report.reliability import (
    Panel,
    choose_classes,
    class_panels,
    group_panels,
    outside_intervals,
    reliability_figure,
    reliability_png,
)
from raylabel.report.reliability_curve import FEW, MeanWeights, mean_weights, reliability_curve

ALL = np.ones(2, bool)


def bins_of(num: list[list[float]], correct: list[list[float]], shift: float = 0.0) -> ReliabilityBins:
    counts, num_bins = np.array(num, float), len(num[0])
    confidence = np.clip((np.arange(num_bins) + 0.5) / num_bins + shift, 0, 1)
    return ReliabilityBins(
        num=counts,
        sum_confidence=counts * confidence,
        num_correct=np.array(correct, float),
        num_ignored=np.zeros_like(counts),
    )


# Two classes, four bins with middles 0.125, 0.375, 0.625, 0.875.
RAW = bins_of([[40, 0, 12, 100], [0, 0, 4, 0]], [[4, 0, 3, 50], [0, 0, 1, 0]])
CALIBRATED = bins_of([[40, 12, 100, 0], [0, 4, 0, 0]], [[4, 3, 50, 0], [0, 1, 0, 0]])


def artists(axes: Axes, label: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the points of a curve."""
    [line] = [one for one in axes.lines if one.get_label() == label]
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)


def intervals(axes: Axes, colour: str) -> NDArray[np.float64]:
    """Return x, low and high of a colour's upright lines, sorted by x."""
    segments = [
        segment
        for collection in axes.collections
        for segment in collection.get_segments()
        if to_hex(collection.get_color()[0]) == colour.lower()
    ]
    return np.array(sorted((segment[0, 0], segment[0, 1], segment[1, 1]) for segment in segments))


def bars(axes: Axes, label: str) -> list[float]:
    [container] = [one for one in axes.containers if one.get_label() == label]
    return [float(one.get_height()) for one in container]


def panels_of(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_title()]


def test_points_intervals_and_counts_are_those_of_the_bins() -> None:
    figure = reliability_figure(RAW, CALIBRATED, group_panels(RAW, {"r": ~ALL | [False, True]}))
    [upper, rare] = panels_of(figure)
    np.testing.assert_allclose(artists(upper, "raw"), [[0.125, 0.625, 0.875], [4 / 40, 4 / 16, 50 / 100]])
    np.testing.assert_allclose(artists(upper, "calibrated"), [[0.125, 0.375, 0.625], [4 / 40, 4 / 16, 50 / 100]])
    drawn = intervals(upper, BEFORE)
    np.testing.assert_allclose(drawn[:, 0], [0.125, 0.625, 0.875])
    for (_, low, high), num, correct in zip(drawn, (40, 16, 100), (4, 4, 50), strict=True):
        posterior = beta(correct + 0.5, num - correct + 0.5)
        np.testing.assert_allclose([low, high], posterior.ppf([0.025, 0.975]))
    lower = figure.axes[figure.axes.index(upper) + 2]
    assert bars(lower, "raw") == [40, 16, 100]
    assert bars(lower, "calibrated") == [40, 16, 100]
    texts = [one.get_text() for one in upper.texts]
    # ECE: |0.125 - 0.1| * 40 + |0.625 - 0.25| * 16 + |0.875 - 0.5| * 100 = 44.5 of 156.
    # CCECE: the mean of (1 + 4.5 + 37.5) / 152 and 0.375.
    assert texts[0] == "2 classes, n = 156"
    assert texts[1].startswith(f"ECE .{round(1000 * 44.5 / 156)} → ")
    assert f"CCECE .{round(1000 * (43 / 152 + 0.375) / 2)} → " in texts[1]
    assert rare.get_title() == "rare"
    assert [one.get_text() for one in rare.texts] == ["1 class, n = 4", "CCECE .375 → .125"]


def test_few_detections_are_faint_and_hollow() -> None:
    figure = reliability_figure(RAW, None, group_panels(RAW, {"r": np.array([False, True])}))
    [upper, rare] = panels_of(figure)
    [line] = [one for one in rare.lines if one.get_label() == "raw, few"]
    assert line.get_markerfacecolor() == "white"
    assert line.get_alpha() < 0.6
    assert not any(one.get_label() == "raw, few" for one in upper.lines)
    assert not any(one.get_label() == "raw" for one in rare.lines)
    assert not any(one.get_label().startswith("calibrated") for one in [*upper.lines, *rare.lines])


def test_counts_that_differ_much_are_on_a_logarithmic_scale() -> None:
    wide = bins_of([[5000, 0, 3, 20]], [[0, 0, 1, 9]])
    narrow = bins_of([[50, 0, 3, 20]], [[0, 0, 1, 9]])
    for bins, scale in ((wide, "log"), (narrow, "linear")):
        figure = reliability_figure(bins, None, [Panel(title="t", subtitle="", classes=np.array([True]))])
        assert figure.axes[1].get_yscale() == scale
        low, high = figure.axes[1].get_ylim()
        assert low < 3
        assert high > bins.num.max()


def test_no_detection_says_so() -> None:
    empty = ReliabilityBins.zeros(2, 4)
    figure = reliability_figure(empty, empty, group_panels(empty, {}))
    assert "no detection" in [one.get_text() for one in figure.axes[0].texts]
    mixed = reliability_figure(RAW, empty, group_panels(RAW, {}))
    assert len(intervals(mixed.axes[0], AFTER)) == 0
    assert len(intervals(mixed.axes[0], BEFORE)) == 3


def test_weights_widen_intervals_by_kishs_effective_number() -> None:
    rng = np.random.default_rng(0)
    num = 400
    outcomes, classes = rng.integers(0, 3, num).astype(np.int8), rng.integers(0, 2, num).astype(np.int32)
    # `verification_weights` gives wrong detections of a class one common weight, and right ones the weight 1.
    weights = np.where(outcomes == 0, np.array([1.0, 7.5])[classes], 1.0)
    detections = Detections(
        num_classes=2,
        class_indices=classes,
        raw_scores=rng.random(num),
        image_indices=np.arange(num),
        outcomes=outcomes,
        weights=weights,
    )
    bins = ReliabilityBins.from_detections(detections, 4)
    spread = mean_weights(classes, outcomes, weights, num_classes=2)
    np.testing.assert_allclose(spread.incorrect, [1, 7.5])
    np.testing.assert_allclose(spread.correct, [1, 1])
    curve = reliability_curve(bins, ALL, spread)
    is_scored, places = outcomes != 2, np.minimum((detections.raw_scores * 4).astype(int), 3)
    for place in range(4):
        held = weights[is_scored & (places == place)]
        assert curve.num[place] == pytest.approx(held.sum())
        assert curve.num_effective[place] == pytest.approx(held.sum() ** 2 / (held**2).sum())
    plain = reliability_curve(bins, ALL)
    assert (curve.high - curve.low > plain.high - plain.low).all()


@given(
    st.lists(st.tuples(st.integers(0, 30), st.floats(0, 1)), min_size=1, max_size=15),
    st.floats(0, 25),
)
def test_merged_neighbours_keep_every_detection_once(cells: list[tuple[int, float]], min_effective: float) -> None:
    num = [[float(count) for count, _ in cells]]
    bins = bins_of(num, [[float(round(count * share)) for count, share in cells]])
    curve = reliability_curve(bins, np.array([True]), min_effective=min_effective)
    assert curve.num.sum() == pytest.approx(bins.num.sum())
    assert (curve.num * curve.accuracy).sum() == pytest.approx(bins.num_correct.sum())
    assert (curve.num * curve.confidence).sum() == pytest.approx(bins.sum_confidence.sum())
    assert (np.diff(curve.confidence) > 0).all()
    assert (curve.first_bin <= curve.last_bin).all()
    assert (curve.last_bin[:-1] < curve.first_bin[1:]).all()
    if bins.num.sum() >= max(min_effective, 1):
        assert (curve.num_effective >= min_effective - 1e-9).all()
    else:
        assert len(curve.num) == min(1, int(bins.num.sum()))
    finest = reliability_curve(bins, np.array([True]))
    assert len(finest.num) == int((bins.num > 0).sum())


def test_class_panels_merge_until_they_can_be_read() -> None:
    bins = bins_of([[3, 3, 3, 3, 3, 3]], [[0, 1, 1, 2, 2, 3]])
    [panel] = class_panels(bins, [0], names=["price in $"], num_train_images=[1])
    assert (panel.title, panel.subtitle) == (r"price in \$", "1 training image, n = 18")
    figure = reliability_figure(bins, None, [panel])
    x, y = artists(figure.axes[0], "raw")
    # From the top, bins 5, 4, 3 and 2 hold 12 >= FEW. Bins 1 and 0 hold 6 and join them.
    assert FEW == 10
    np.testing.assert_allclose(y, [9 / 18])
    assert len(x) == 1
    assert bars(figure.axes[1], "raw") == [3] * 6


def test_furthest_off_is_what_chance_does_not_explain() -> None:
    num_classes = 20
    num = np.full((num_classes, 4), 50.0)
    confidence = np.array([0.125, 0.375, 0.625, 0.875])
    correct = num * confidence
    correct[3] = 50 * confidence - 5
    num[7], correct[7] = [0, 0, 1, 0], [0, 0, 0, 0]  # its CCECE is 0.625, from one detection
    correct[11] = 50 * np.clip(confidence - 0.4, 0, 1)
    bins = ReliabilityBins(
        num=num, sum_confidence=num * confidence, num_correct=correct, num_ignored=np.zeros_like(num)
    )
    num_train = np.arange(num_classes)[::-1] + 1
    most, furthest, rarest = choose_classes(bins, bins, num_train, num=4)
    assert furthest.class_indices[0] == 11
    assert 7 not in furthest.class_indices
    assert most.class_indices == [0, 1, 2, 3]
    assert rarest.class_indices == [19, 18, 17, 16]
    one = np.arange(num_classes) == 0
    assert outside_intervals(reliability_curve(bins, one)) == 0


def test_few_classes_are_all_shown_and_none_without_a_detection() -> None:
    [choice] = choose_classes(RAW, CALIBRATED, np.array([9, 3]))
    assert choice.class_indices == [1, 0]
    assert choose_classes(ReliabilityBins.zeros(2, 4), ReliabilityBins.zeros(2, 4), np.array([9, 3])) == []


def test_five_panels_take_two_rows_and_the_rest_is_blank() -> None:
    panels = [Panel(title=str(number), subtitle="", classes=ALL) for number in range(5)]
    figure = reliability_figure(RAW, CALIBRATED, panels, weights=MeanWeights(correct=np.ones(2), incorrect=np.ones(2)))
    assert len(figure.axes) == 16
    assert sum(axes.axison for axes in figure.axes) == 10


@pytest.mark.filterwarnings("error:Glyph")
def test_names_that_the_font_lacks_are_left_to_the_page() -> None:
    names = ["%#[x] {a} ö", "犬 $1 $2", "price $1 or $2", "🐕 dog", "a\nb"]
    bins = ReliabilityBins.zeros(5, 4)
    panels = class_panels(bins, range(5), names=names, num_train_images=[1] * 5)
    figure = reliability_figure(bins, None, panels)
    png(figure)
    titles = page_titles(figure, panels)
    assert [title.text for title in titles] == ["犬 $1 $2", "🐕 dog", "a\nb"]
    second, fourth, fifth = titles
    assert second.bottom == fourth.bottom > fifth.bottom + 40, "in the first row, and in the row below"
    assert fifth.left + 20 < second.left < fourth.left - 40, "in the first, second and fourth column"
    drawn = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert drawn == ["%#[x] {a} ö", "x", r"price \$1 or \$2", "x", "x"]


def test_same_bytes_and_no_global_state() -> None:
    backend, settings = matplotlib.get_backend(), dict(matplotlib.rcParams)
    first, second = (reliability_png(RAW, CALIBRATED, groups={}, title="t") for _ in range(2))
    assert first == second
    assert first.startswith(b"\x89PNG")
    assert plt.get_fignums() == []
    assert (matplotlib.get_backend(), dict(matplotlib.rcParams)) == (backend, settings)
