"""Titles of panels that the font of the plots cannot draw. The page writes them over the figure."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from raylabel.report.plots import is_drawable
from raylabel.report.reliability import COLUMNS, Panel


@dataclass(frozen=True, kw_only=True)
class PageTitle:
    """A panel's title that the page writes over the drawn figure, because the font of the plots lacks its signs.

    Attributes:
        text: the title.
        left, bottom: place of its middle, in percent of the figure's width and height.
    """

    text: str
    left: float
    bottom: float


def page_titles(figure: Figure, panels: Sequence[Panel]) -> list[PageTitle]:
    """Return the titles that a figure of these panels, once drawn, leaves to the page."""
    columns = min(COLUMNS, len(panels))
    titles = []
    for place, panel in enumerate(panels):
        if not is_drawable(panel.title):
            row, column = divmod(place, columns)
            box = figure.axes[2 * row * columns + column].title.get_window_extent()
            left = 50 * (box.x0 + box.x1) / figure.bbox.width
            bottom = 50 * (box.y0 + box.y1) / figure.bbox.height
            titles.append(PageTitle(text=panel.title.replace(r"\$", "$"), left=left, bottom=bottom))
    return titles
