"""Differences between the calibration split and the pool."""
