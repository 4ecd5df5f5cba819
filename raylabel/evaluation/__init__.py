"""Figures of models and of pseudo-labels. No torch."""

from raylabel.evaluation.average_precision import evaluate_results

__all__ = ["evaluate_results"]
