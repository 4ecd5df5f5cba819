"""raylabel: calibrated pseudo-labels for long-tailed instance segmentation."""
