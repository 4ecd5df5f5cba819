"""raylabel: calibrated pseudo-labels for long-tailed instance segmentation.

    import raylabel as rl

The names below are the public face. Each name is loaded at its first use, so the import is quick and loads neither
torch nor Ray.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raylabel.calibration.bins import ReliabilityBins
    from raylabel.calibration.correctors.base import Corrector, FitContext
    from raylabel.calibration.correctors.kinds import fit_corrector
    from raylabel.calibration.detections import Detections
    from raylabel.calibration.metrics.binned import ccece
    from raylabel.calibration.results_file import read_detections
    from raylabel.config.load import load_config
    from raylabel.config.run import Config
    from raylabel.dataset.annotations import read_annotations
    from raylabel.deploy.trained_model import load_model
    from raylabel.errors import InputError
    from raylabel.evaluation.average_precision import evaluate_results
    from raylabel.export import export_labels
    from raylabel.external import calibrate_results, correct_results
    from raylabel.masks.rle import encode_masks, mask_boxes
    from raylabel.models.contract import check_segmenter
    from raylabel.models.segmenter import LOSS_TERMS, Segmenter, Target
    from raylabel.predictions.instances import Instances
    from raylabel.run.reader import Run
    from raylabel.stages.check import check_run as check
    from raylabel.stages.run import run_pipeline
    from raylabel.stages.status import run_status as status

__all__ = [
    "LOSS_TERMS",
    "Config",
    "Corrector",
    "Detections",
    "FitContext",
    "InputError",
    "Instances",
    "ReliabilityBins",
    "Run",
    "Segmenter",
    "Target",
    "calibrate_results",
    "ccece",
    "check",
    "check_segmenter",
    "correct_results",
    "encode_masks",
    "evaluate_results",
    "export_labels",
    "fit_corrector",
    "load_config",
    "load_model",
    "mask_boxes",
    "read_annotations",
    "read_detections",
    "run_pipeline",
    "status",
]

_HOMES = {
    "LOSS_TERMS": "models.segmenter",
    "Config": "config.run",
    "Corrector": "calibration.correctors.base",
    "Detections": "calibration.detections",
    "FitContext": "calibration.correctors.base",
    "InputError": "errors",
    "Instances": "predictions.instances",
    "ReliabilityBins": "calibration.bins",
    "Run": "run.reader",
    "Segmenter": "models.segmenter",
    "Target": "models.segmenter",
    "calibrate_results": "external",
    "ccece": "calibration.metrics.binned",
    "check": "stages.check:check_run",
    "check_segmenter": "models.contract",
    "correct_results": "external",
    "encode_masks": "masks.rle",
    "evaluate_results": "evaluation.average_precision",
    "export_labels": "export",
    "fit_corrector": "calibration.correctors.kinds",
    "load_config": "config.load",
    "load_model": "deploy.trained_model",
    "mask_boxes": "masks.rle",
    "read_annotations": "dataset.annotations",
    "read_detections": "calibration.results_file",
    "run_pipeline": "stages.run",
    "status": "stages.status:run_status",
}
"""Public name -> the module that defines it, and the name there if it differs."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("raylabel")
    if name not in _HOMES:
        raise AttributeError(f"module 'raylabel' has no attribute {name!r}")
    module, _, name_there = _HOMES[name].partition(":")
    value = getattr(importlib.import_module(f"raylabel.{module}"), name_there or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
