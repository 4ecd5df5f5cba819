"""Predictions for one image: correct or not, kept or dropped. Knows no torch."""
