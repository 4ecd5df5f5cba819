"""Plots, the page of a run, and the page of a calibration on its own."""
