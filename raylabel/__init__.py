"""raylabel: calibrated pseudo-labels for long-tailed instance segmentation."""

from importlib.metadata import version

__version__ = version("raylabel")
