"""Measures of calibration and of ranking."""
