"""Plots of the report as PNG bytes. They are drawn without pyplot, because pyplot keeps global state."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

# Okabe and Ito's palette, because readers with any colour vision can tell its colours apart, also in grey.
BEFORE = "#D55E00"
AFTER = "#0072B2"
INK = "#24292f"
SOFT_INK = "#57606a"
FAINT = "#d8dee4"
_DPI = 144


def bars_png(values: Mapping[str, Sequence[float | None]], labels: Sequence[str], *, x_label: str) -> bytes:
    """Draw horizontal bars of two or more series over the same labels, as PNG bytes.

    Args:
        values: series name -> one value per label; None draws no bar.
        labels: one label per group of bars, the first on top.
        x_label: name of the measured quantity.
    """
    figure = new_figure(7.2, 0.55 + 0.27 * len(labels) * len(values))
    axes = figure.subplots()
    thickness = 0.8 / len(values)
    for place, (colour, (name, series)) in enumerate(zip(_colours(len(values)), values.items(), strict=True)):
        positions = np.arange(len(labels)) + (place - (len(values) - 1) / 2) * thickness
        lengths = np.array([np.nan if value is None else value for value in series], dtype=float)
        drawn = axes.barh(positions, lengths, height=thickness * 0.92, color=colour, label=name)
        texts = ["" if np.isnan(length) else f"{length:.3f}" for length in lengths]
        axes.bar_label(drawn, texts, padding=3, fontsize=8, color=INK)
    axes.set_yticks(np.arange(len(labels)), labels)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(x_label, color=INK)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.legend(
        frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(values), borderaxespad=0.2
    )
    plain(axes)
    return png(figure)


Curves = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""Name -> (x values, y values)."""


def panels_png(panels: Mapping[str, Curves], *, x_label: str) -> bytes:
    """Draw lines over a common axis, such as losses over steps, as PNG bytes.

    Panels stand two in a row. A name has the same colour in every panel.

    Args:
        panels: name of the measured quantity -> its curves.
        x_label: label of the common axis.
    """
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    colours = dict(zip(names, _colours(len(names)), strict=True))
    num_rows = (len(panels) + 1) // 2
    figure = new_figure(7.2, 0.35 + 1.9 * num_rows)
    grid = figure.subplots(num_rows, 2, squeeze=False).ravel()
    for axes, (title, curves) in zip(grid, panels.items(), strict=False):
        for name, (xs, ys) in curves.items():
            marker = "o" if len(xs) < 10 else ""
            axes.plot(xs, ys, color=colours[name], linewidth=1.3, marker=marker, markersize=3)
        axes.set_title(title, fontsize=9, color=INK, loc="left")
        axes.set_xlabel(x_label, color=INK, fontsize=8)
        axes.set_ylim(bottom=0)
        axes.grid(color=FAINT, linewidth=0.6)
        plain(axes)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    lines = [Line2D([], [], color=colours[name], label=name) for name in names]
    figure.legend(handles=lines, loc="outside upper left", ncols=len(names), frameon=False, fontsize=9)
    return png(figure)


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure of this size in inches, outside of pyplot."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _colours(num: int) -> list[str]:
    palette = [BEFORE, AFTER, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
    return [palette[index % len(palette)] for index in range(num)]


def plain(axes: Axes) -> None:
    """Style axes: no box, small ticks, the grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#8c959f")
    axes.tick_params(colors=INK, labelsize=9, length=3)
    axes.set_axisbelow(True)


def is_drawable(text: str) -> bool:
    """Tell whether the font of the plots has every sign of a text. It has no Chinese signs and no emoji."""
    known = font_manager.get_font(font_manager.findfont(font_manager.FontProperties())).get_charmap()
    return all(ord(sign) in known for sign in text)


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG file."""
    buffer = io.BytesIO()
    # The file has no version or date, because the same bins must give the same bytes.
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()
