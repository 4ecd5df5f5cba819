"""Reliability diagrams: accuracy over confidence, per frequency group and per class, with intervals and counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from raylabel.calibration.bins import ReliabilityBins
from raylabel.calibration.metrics.binned import ccece, ece
from raylabel.dataset.frequency import group_title
from raylabel.report.plots import AFTER, BEFORE, FAINT, INK, SOFT_INK, is_drawable, new_figure, plain, png
from raylabel.report.reliability_curve import FEW, MeanWeights, ReliabilityCurve, reliability_curve

COLUMNS = 4
"""Panels in a row."""

_LOG_FROM = 30.0


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One diagram of a figure.

    Attributes:
        title: first line.
        subtitle: second line, smaller.
        classes: (num_classes,) mask of the shown classes.
        min_effective: see `reliability_curve`.
    """

    title: str
    subtitle: str
    classes: NDArray[np.bool_]
    min_effective: float = FEW


def group_panels(bins: ReliabilityBins, groups: Mapping[str, NDArray[np.bool_]]) -> list[Panel]:
    """Make one panel for all classes and one per group.

    Args:
        bins: bins of raw scores.
        groups: name -> (num_classes,) mask of classes. "r", "c" and "f" are written out. "all" is added as the first
            panel if it is absent.
    """
    masks = {"all": np.ones(bins.num_classes, dtype=bool)} | dict(groups)
    num_of = {name: bins.num[mask].sum() for name, mask in masks.items()}
    return [
        Panel(
            title="all classes" if name == "all" else group_title(name),
            subtitle=f"{_plural(int(mask.sum()), 'class', 'classes')}, n = {num_of[name]:,.0f}",
            classes=mask,
        )
        for name, mask in masks.items()
    ]


def class_panels(
    bins: ReliabilityBins,
    class_indices: Sequence[int],
    *,
    names: Sequence[str],
    num_train_images: Sequence[int],
    image_kind: str = "training",
) -> list[Panel]:
    """Make one panel per chosen class. `image_kind` names the images that `num_train_images` counts."""
    return [
        Panel(
            title=_short(names[index]),
            subtitle=f"{_plural(num_train_images[index], f'{image_kind} image', f'{image_kind} images')}, "
            f"n = {bins.num[index].sum():,.0f}",
            classes=np.arange(bins.num_classes) == index,
        )
        for index in class_indices
    ]


@dataclass(frozen=True, kw_only=True)
class ClassChoice:
    """Classes to show, with the reason.

    Attributes:
        heading: heading of their figure; gives the reason.
        class_indices: class indices in the order of the panels.
    """

    heading: str
    class_indices: list[int]


def outside_intervals(curve: ReliabilityCurve) -> float:
    """Average the distance of confidence from the accuracy's interval over the detections.

    The result is 0 if chance alone can explain the whole curve, whatever its CCECE is.
    """
    if not len(curve.num):
        return 0.0
    distance = np.maximum(np.maximum(curve.low - curve.confidence, curve.confidence - curve.high), 0)
    return float(np.average(distance, weights=curve.num))


def choose_classes(
    before: ReliabilityBins,
    after: ReliabilityBins,
    num_train_images: NDArray[np.integer],
    *,
    weights: MeanWeights | None = None,
    num: int = 8,
) -> list[ClassChoice]:
    """Choose the classes that get a diagram.

    They are the classes with most detections, those furthest off after correction, and those with fewest training
    images. "Furthest off" is by `outside_intervals`, because the classes with fewest detections have the largest
    CCECEs. If few classes have a detection, all of these are chosen.
    """
    weight = before.num.sum(axis=1)
    detected = np.flatnonzero(weight > 0)
    if len(detected) == 0:
        return []
    rare_first = detected[np.lexsort((-weight[detected], num_train_images[detected]))]
    if len(detected) <= 3 * num // 2:
        return [
            ClassChoice(heading="Every class with a detection, the rarest first", class_indices=rare_first.tolist())
        ]
    classes = np.arange(before.num_classes)
    off = np.array(
        [outside_intervals(reliability_curve(after, classes == one, weights, min_effective=FEW)) for one in detected]
    )
    furthest = np.argsort(-off, kind="stable")
    choices = {
        "Most detections": detected[np.argsort(-weight[detected], kind="stable")],
        "After correction furthest outside of the intervals": detected[furthest[off[furthest] > 0]],
        "The rarest": rare_first,
    }
    return [
        ClassChoice(heading=heading, class_indices=chosen[:num].tolist())
        for heading, chosen in choices.items()
        if len(chosen)
    ]


def reliability_figure(
    before: ReliabilityBins,
    after: ReliabilityBins | None,
    panels: Sequence[Panel],
    *,
    weights: MeanWeights | None = None,
    title: str = "",
    after_name: str = "calibrated",
) -> Figure:
    """Draw reliability diagrams, four in a row.

    The upper part of a panel shows the accuracy of each confidence bin over its mean confidence, with its 95% credible
    interval (Jeffreys' prior, effective counts). Confidence is right on the diagonal and too high below it.
    Neighbouring bins are merged until they hold FEW effective detections. A panel with fewer has one faint, hollow
    point. The lower part shows the weight of the detections in each bin. Its scale is logarithmic if bins differ by
    more than 30 times.

    Args:
        before: bins of raw scores.
        after: bins of calibrated scores; None draws one curve only.
        panels: panels to draw.
        weights: mean weights of the detections; None means that every weight is 1.
        title: line above all panels.
        after_name: name of `after` in the legend.
    """
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(2.75 * columns + 0.4, 3.95 * rows + 0.5)
    axes = figure.subplots(2 * rows, columns, height_ratios=[3.1, 1] * rows, squeeze=False)
    for place in range(rows * columns):
        row, column = divmod(place, columns)
        upper, lower = axes[2 * row, column], axes[2 * row + 1, column]
        if place >= len(panels):
            upper.set_axis_off()
            lower.set_axis_off()
            continue
        _draw_panel(upper, lower, panels[place], before, after, weights)
        upper.tick_params(labelbottom=False, labelleft=column == 0)
        if column == 0:
            upper.set_ylabel("accuracy", color=INK, fontsize=10)
            lower.set_ylabel("detections", color=INK, fontsize=10)
        if place + columns >= len(panels):
            lower.set_xlabel("confidence", color=INK, fontsize=10)
    _draw_legend(figure, after_name if after is not None else None)
    if title:
        figure.suptitle(title, fontsize=12, color=INK)
    return figure


def reliability_png(
    bins_before: ReliabilityBins,
    bins_after: ReliabilityBins | None,
    *,
    groups: Mapping[str, NDArray[np.bool_]],
    weights: MeanWeights | None = None,
    title: str = "",
    after_name: str = "calibrated",
) -> bytes:
    """Draw `reliability_figure` with the panels of `group_panels`, as PNG bytes."""
    panels = group_panels(bins_before, groups)
    figure = reliability_figure(bins_before, bins_after, panels, weights=weights, title=title, after_name=after_name)
    return png(figure)


def _draw_panel(
    upper: Axes,
    lower: Axes,
    panel: Panel,
    before: ReliabilityBins,
    after: ReliabilityBins | None,
    weights: MeanWeights | None,
) -> None:
    chosen = [bins.of_classes(panel.classes) for bins in (before, after) if bins is not None]
    title = upper.set_title(panel.title, fontsize=11, color=INK, pad=32)
    if not is_drawable(panel.title):
        title.set(text="x", alpha=0)  # keeps the place for `page_titles`
    for height, text in ((18, panel.subtitle), (5, _errors(chosen))):
        upper.annotate(
            text, (0.5, 1), (0, height), "axes fraction", "offset points", ha="center", fontsize=9, color=SOFT_INK
        )
    if not chosen[0].num.any():
        upper.text(0.5, 0.5, "no detection", ha="center", va="center", color=SOFT_INK, fontsize=10)
    upper.plot([0, 1], [0, 1], color="#8c959f", linewidth=1, linestyle=(0, (4, 3)), zorder=1, label="diagonal")
    series = [(before, BEFORE, "o", "raw")] + ([] if after is None else [(after, AFTER, "s", "calibrated")])
    counts = []
    for place, (bins, colour, marker, name) in enumerate(series):
        curve = reliability_curve(bins, panel.classes, weights, min_effective=panel.min_effective)
        _draw_curve(upper, curve, colour, marker, name)
        num = bins.num[panel.classes].sum(axis=0)
        held = np.flatnonzero(num > 0)
        width = 0.84 / bins.num_bins / len(series)
        centres = (held + 0.5) / bins.num_bins + (place - (len(series) - 1) / 2) * width
        lower.bar(centres, num[held], width, color=colour, label=name)
        counts.append(num[held])
    upper.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    for axes in (upper, lower):
        axes.set_xlim(-0.02, 1.02)
        axes.set_xticks(np.linspace(0, 1, 6))
        plain(axes)
    upper.set_yticks(np.linspace(0, 1, 6))
    upper.grid(color=FAINT, linewidth=0.6)
    _scale_counts(lower, np.concatenate(counts))


def _draw_curve(axes: Axes, curve: ReliabilityCurve, colour: str, marker: str, name: str) -> None:
    few = curve.is_few
    for rows, opacity, face in ((few, 0.45, "white"), (~few, 1.0, colour)):
        if not rows.any():
            continue
        x = curve.confidence[rows]
        axes.vlines(x, curve.low[rows], curve.high[rows], color=colour, linewidth=1.2, alpha=0.5 * opacity, zorder=2)
        axes.plot(
            x,
            curve.accuracy[rows],
            marker=marker,
            markersize=4.2,
            markerfacecolor=face,
            markeredgecolor=colour,
            markeredgewidth=1,
            color=colour,
            linewidth=1.2 if opacity == 1 else 0,
            alpha=opacity,
            zorder=4 if opacity == 1 else 3,
            label=name if opacity == 1 else f"{name}, few",
        )


def _errors(bins: Sequence[ReliabilityBins]) -> str:
    """Format ECE and CCECE, raw and calibrated. For one class both are the same, so only CCECE is shown."""
    if not all(one.num.any() for one in bins):
        return ""

    def arrow(values: Sequence[float]) -> str:
        return " → ".join(f"{value:.3f}".removeprefix("0") for value in values)

    text = "CCECE " + arrow([ccece(one, min_count=0) for one in bins])
    return text if bins[0].num_classes == 1 else f"ECE {arrow([ece(one) for one in bins])},  {text}"


def _scale_counts(axes: Axes, counts: NDArray[np.float64]) -> None:
    if len(counts) == 0:
        axes.set_yticks([])
        return
    if counts.max() > _LOG_FROM * counts.min():
        axes.set_yscale("log")
        axes.set_ylim(0.5 * min(1.0, counts.min()), 2 * counts.max())
        decades = 10.0 ** np.arange(0, np.floor(np.log10(counts.max())) + 1)
        axes.set_yticks(decades, [f"{one:,.0f}" for one in decades])
        axes.set_yticks([], minor=True)
    else:
        axes.set_ylim(0, 1.1 * counts.max())
        axes.set_yticks([0, counts.max()], ["0", f"{counts.max():,.0f}"])


def _draw_legend(figure: Figure, after_name: str | None) -> None:
    def point(colour: str, marker: str, label: str) -> Line2D:
        return Line2D([], [], color=colour, marker=marker, markersize=4.5, linewidth=1.2, label=label)

    entries = [point(BEFORE, "o", "raw")]
    if after_name is not None:
        entries.append(point(AFTER, "s", after_name))
    entries.append(
        Line2D(
            [],
            [],
            color="#8c959f",
            marker="o",
            markerfacecolor="white",
            markersize=4.5,
            linewidth=0,
            label=f"fewer than {FEW:.0f} effective",
        )
    )
    figure.legend(
        handles=entries, loc="outside lower center", ncols=len(entries), frameon=False, fontsize=10, labelcolor=INK
    )


def _plural(num: int, one: str, many: str) -> str:
    return f"{num:,} {one if num == 1 else many}"


def _short(name: str, length: int = 30) -> str:
    # "$" is escaped, because matplotlib would start a formula with it.
    text = name if len(name) <= length else f"{name[: length - 1]}…"
    return text.replace("$", r"\$")
