"""Plots of the report as PNG bytes. Figures are drawn without pyplot, so that no global state is left behind."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart with any colour vision, and in grey.
BEFORE = "#D55E00"
AFTER = "#0072B2"
INK = "#24292f"
SOFT_INK = "#57606a"
FAINT = "#d8dee4"
_DPI = 144


def bars_png(values: Mapping[str, Sequence[float | None]], labels: Sequence[str], *, x_label: str) -> bytes:
    """Horizontal bars of two or more series over the same labels: PNG bytes.

    Args:
        values: series name -> one value a label; None draws no bar.
        labels: one a group of bars, first on top.
        x_label: what is measured.
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


def curves_png(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, x_label: str, y_label: str) -> bytes:
    """Lines over a common axis, such as losses over steps: PNG bytes.

    Args:
        curves: name -> (x values, y values).
        x_label: of the common axis.
        y_label: of the values.
    """
    figure = new_figure(7.2, 2.8)
    axes = figure.subplots()
    for colour, (name, (xs, ys)) in zip(_colours(len(curves)), curves.items(), strict=True):
        axes.plot(xs, ys, color=colour, linewidth=1.4, label=name)
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.set_ylim(bottom=0)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.legend(frameon=False, fontsize=9)
    plain(axes)
    return png(figure)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, outside of pyplot."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _colours(num: int) -> list[str]:
    palette = [BEFORE, AFTER, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
    return [palette[index % len(palette)] for index in range(num)]


def plain(axes: Axes) -> None:
    """No box around the axes, small ticks, the grid behind what is drawn."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#8c959f")
    axes.tick_params(colors=INK, labelsize=9, length=3)
    axes.set_axisbelow(True)


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    # No version or date in the file: the same bins give the same bytes.
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()
