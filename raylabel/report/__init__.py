"""Plots, the page of a run, and the page of a calibration on its own."""

from raylabel.report.calibration_view import classes_csv
from raylabel.report.page import build_report, calibration_page
from raylabel.report.reliability import reliability_png

__all__ = ["build_report", "calibration_page", "classes_csv", "reliability_png"]
