"""Every setting of a run: frozen dataclasses with a docstring per field, and the strict YAML reader.

Decides nothing.
"""

from raylabel.config.augmentation import AugmentationConfig, StrongViewConfig, ViewConfig
from raylabel.config.corrector_kinds import CORRECTOR_KINDS, CorrectorKind
from raylabel.config.data import DataConfig, LabelledPortion, SplitFraction, TarSamples
from raylabel.config.evaluation import EvaluationConfig
from raylabel.config.labelling import CalibrationConfig, LabelConfig, MaskQuality, SelectionConfig, TileConfig
from raylabel.config.load import config_dict, config_from_yaml, dump_config, load_config, parse_config, resolve_paths
from raylabel.config.optimizer import OptimizerConfig, Precision, TeacherOptimizerConfig
from raylabel.config.run import Config
from raylabel.config.training import (
    DOWNLOADED,
    IMAGENET,
    FederatedLossConfig,
    PoolLosses,
    SmoothingConfig,
    SmoothingKind,
    StudentConfig,
    TeacherConfig,
    TrainingConfig,
    has_weights_name,
)

__all__ = [
    "CORRECTOR_KINDS",
    "DOWNLOADED",
    "IMAGENET",
    "AugmentationConfig",
    "CalibrationConfig",
    "Config",
    "CorrectorKind",
    "DataConfig",
    "EvaluationConfig",
    "FederatedLossConfig",
    "LabelConfig",
    "LabelledPortion",
    "MaskQuality",
    "OptimizerConfig",
    "PoolLosses",
    "Precision",
    "SelectionConfig",
    "SmoothingConfig",
    "SmoothingKind",
    "SplitFraction",
    "StrongViewConfig",
    "StudentConfig",
    "TarSamples",
    "TeacherConfig",
    "TeacherOptimizerConfig",
    "TileConfig",
    "TrainingConfig",
    "ViewConfig",
    "config_dict",
    "config_from_yaml",
    "dump_config",
    "has_weights_name",
    "load_config",
    "parse_config",
    "resolve_paths",
]
