"""Plots of the report as PNG bytes. Figures are drawn without pyplot, so that no global state is left behind."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from raylabel.calibration.bins import ReliabilityBins
from raylabel.calibration.metrics import credible_interval, ece

# Okabe and Ito's palette: told apart with any colour vision, and in grey.
BEFORE = "#D55E00"
AFTER = "#0072B2"
_INK = "#24292f"
_FAINT = "#d8dee4"
_TITLES = {"all": "all classes", "r": "rare", "c": "common", "f": "frequent"}
_DPI = 144


def reliability_png(
    bins_before: ReliabilityBins,
    bins_after: ReliabilityBins | None,
    *,
    groups: Mapping[str, NDArray[np.bool_]],
    title: str = "",
) -> bytes:
    """Reliability diagrams, one panel for all classes and one for each frequency group: PNG bytes.

    Above, the accuracy of each confidence bin over its mean confidence, with the 95 % credible interval under Jeffreys'
    prior (the bins' weighted counts taken for counts) and points larger where a bin holds more; on the diagonal
    confidence is right, below it too high. Below, how many detections each bin holds.

    Args:
        bins_before: of raw scores.
        bins_after: of calibrated scores, or None to draw one curve only.
        groups: name -> (num_classes,) mask of classes; "r", "c", "f" are written out. "all" is put first if absent.
        title: line above the panels.
    """
    masks = {"all": np.ones(bins_before.num_classes, dtype=bool)} | dict(groups)
    figure = Figure(figsize=(3.0 * len(masks) + 0.6, 4.5), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(masks), height_ratios=(3.4, 1), squeeze=False, sharex="col")
    for column, (name, mask) in enumerate(masks.items()):
        before = bins_before.of_classes(mask).pooled()
        after = None if bins_after is None else bins_after.of_classes(mask).pooled()
        _draw_curves(axes[0, column], before, after)
        _draw_counts(axes[1, column], before, after)
        title_line = f"{_TITLES.get(name, name)} ({int(mask.sum())}), n = {before.num.sum():,.0f}"
        axes[0, column].set_title(title_line, fontsize=10, color=_INK)
        axes[0, column].tick_params(labelbottom=False, labelleft=column == 0)
    axes[0, 0].set_ylabel("accuracy", color=_INK)
    axes[1, 0].set_ylabel("detections", color=_INK)
    figure.supxlabel("confidence", fontsize=10, color=_INK)
    if title:
        figure.suptitle(title, fontsize=12, color=_INK)
    return _png(figure)


def bars_png(values: Mapping[str, Sequence[float | None]], labels: Sequence[str], *, x_label: str) -> bytes:
    """Horizontal bars of two or more series over the same labels: PNG bytes.

    Args:
        values: series name -> one value a label; None draws no bar.
        labels: one a group of bars, first on top.
        x_label: what is measured.
    """
    figure = Figure(figsize=(7.2, 0.55 + 0.27 * len(labels) * len(values)), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    thickness = 0.8 / len(values)
    for place, (colour, (name, series)) in enumerate(zip(_colours(len(values)), values.items(), strict=True)):
        positions = np.arange(len(labels)) + (place - (len(values) - 1) / 2) * thickness
        lengths = np.array([np.nan if value is None else value for value in series], dtype=float)
        drawn = axes.barh(positions, lengths, height=thickness * 0.92, color=colour, label=name)
        texts = ["" if np.isnan(length) else f"{length:.3f}" for length in lengths]
        axes.bar_label(drawn, texts, padding=3, fontsize=8, color=_INK)
    axes.set_yticks(np.arange(len(labels)), labels)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(x_label, color=_INK)
    axes.grid(axis="x", color=_FAINT, linewidth=0.6)
    axes.legend(
        frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(values), borderaxespad=0.2
    )
    _plain(axes)
    return _png(figure)


def curves_png(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, x_label: str, y_label: str) -> bytes:
    """Lines over a common axis, such as losses over steps: PNG bytes.

    Args:
        curves: name -> (x values, y values).
        x_label: of the common axis.
        y_label: of the values.
    """
    figure = Figure(figsize=(7.2, 2.8), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for colour, (name, (xs, ys)) in zip(_colours(len(curves)), curves.items(), strict=True):
        axes.plot(xs, ys, color=colour, linewidth=1.4, label=name)
    axes.set_xlabel(x_label, color=_INK)
    axes.set_ylabel(y_label, color=_INK)
    axes.set_ylim(bottom=0)
    axes.grid(color=_FAINT, linewidth=0.6)
    axes.legend(frameon=False, fontsize=9)
    _plain(axes)
    return _png(figure)


def _draw_curves(axes: Axes, before: ReliabilityBins, after: ReliabilityBins | None) -> None:
    axes.plot([0, 1], [0, 1], color="#8c959f", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for bins, colour, marker, name in ((before, BEFORE, "o", "raw"), (after, AFTER, "s", "calibrated")):
        if bins is None:
            continue
        held = bins.num[0] > 0
        if not held.any():
            continue
        confidence, accuracy, num = bins.confidence()[0, held], bins.accuracy()[0, held], bins.num[0, held]
        low, high = credible_interval(accuracy, num)
        axes.vlines(confidence, low, high, color=colour, linewidth=1.3, alpha=0.45, zorder=2)
        label = f"{name}, ECE {ece(bins):.3f}"
        axes.plot(confidence, accuracy, color=colour, linewidth=1.2, alpha=0.75, zorder=3)
        # A point's area goes with its count: bins of a few detections swing, and should not draw the eye.
        axes.scatter(
            confidence, accuracy, 6 + 34 * num / num.max(), color=colour, marker=marker, linewidths=0, zorder=4
        )
        axes.plot([], [], color=colour, marker=marker, markersize=4, linewidth=1.2, label=label)
    if before.num.sum() == 0:
        axes.text(0.5, 0.5, "no detection", ha="center", va="center", color="#57606a", fontsize=10)
    else:
        axes.legend(fontsize=8, loc="upper left", borderpad=0.3, framealpha=0.85, edgecolor="none").set_zorder(5)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.grid(color=_FAINT, linewidth=0.6)
    _plain(axes)


def _draw_counts(axes: Axes, before: ReliabilityBins, after: ReliabilityBins | None) -> None:
    edges = np.linspace(0, 1, before.num_bins + 1)
    axes.stairs(before.num[0], edges, color=BEFORE, fill=True, alpha=0.3)
    axes.stairs(before.num[0], edges, color=BEFORE, linewidth=1)
    if after is not None:
        axes.stairs(after.num[0], np.linspace(0, 1, after.num_bins + 1), color=AFTER, linewidth=1.4)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    _plain(axes)


def _colours(num: int) -> list[str]:
    palette = [BEFORE, AFTER, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
    return [palette[index % len(palette)] for index in range(num)]


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#8c959f")
    axes.tick_params(colors=_INK, labelsize=8, length=3)
    axes.set_axisbelow(True)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # No version or date in the file: the same bins give the same bytes.
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()
