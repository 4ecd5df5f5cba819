"""Plots, console text, the page of a run, and the page of one calibration."""
