"""Plots and the page of a run."""

from raylabel.report.page import build_report
from raylabel.report.plots import reliability_png

__all__ = ["build_report", "reliability_png"]
