"""Building segmenters: the dict of families, and users' classes."""

import difflib
import importlib
import inspect
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, cast

from torch import nn

from raylabel.config import IMAGENET
from raylabel.errors import InputError
from raylabel.models.query.families import EOMTS, MASK2FORMERS
from raylabel.models.segmenter import Segmenter
from raylabel.models.weights.loading import load_weights

_logger = logging.getLogger(__name__)

SEGMENTER_NAMES = ("num_classes", "embed_layers", "losses", "predict", "embed")

BUILDERS: dict[str, str] = {
    "tiny_maskrcnn": "raylabel.models.rcnn.tiny_maskrcnn:build_tiny_maskrcnn",
    "maskrcnn_efficientnet_lite0": "raylabel.models.rcnn.efficientnet:build_efficientnet_lite0",
    "maskrcnn_mobilenet_v3_large_fpn": "raylabel.models.rcnn.mobilenet:build_mobilenet",
    "maskrcnn_resnet50_fpn": "raylabel.models.rcnn.resnet50:build_resnet50",
    "maskrcnn_resnet50_fpn_v2": "raylabel.models.rcnn.resnet50:build_resnet50_v2",
    **dict.fromkeys(MASK2FORMERS, "raylabel.models.query.builders:build_mask2former"),
    **dict.fromkeys(EOMTS, "raylabel.models.query.builders:build_eomt"),
    "onnx": "raylabel.models.onnx_segmenter:build_onnx",
}
"""Name in the config -> `module:function` of `num_classes`, `min_size` and the family's options. The module is imported
when the model is built, because torchvision takes seconds to load. A function for several names also takes `family`."""


def build_segmenter(
    model: str,
    *,
    num_classes: int,
    weights: str | None = None,
    min_size: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Segmenter:
    """Build a model with random weights from torch's generator, then load pretrained weights if they are given.

    Args:
        model: a name in BUILDERS, or a user's `module:Class`.
        num_classes: number of foreground classes.
        weights: local file or name, see `load_weights`. Tensors are loaded by name and shape. A warning names the
            tensors that stay random.
        min_size: length of the short side that the model resizes images to; None keeps their size.
        options: settings of the family, or keyword arguments of a user's class.

    Raises:
        InputError: the model is unknown or not a segmenter, or the weights are missing or don't fit.
    """
    builder = _builder(model) if model in BUILDERS else _users_class(model)
    _check_options(model, builder, options or {})
    segmenter = builder(num_classes=num_classes, min_size=min_size, **(options or {}))
    missing = [name for name in SEGMENTER_NAMES if not hasattr(segmenter, name)]
    if not isinstance(segmenter, nn.Module) or missing:
        lacks = f"lacks {', '.join(missing)}" if missing else "is not a torch.nn.Module"
        raise InputError(f"model {model}: {lacks}. See raylabel.models.segmenter.Segmenter")
    if weights is not None:
        report = load_weights(segmenter, weights)
        _logger.info("%s: %d tensors loaded into %s", weights, len(report.loaded), model)
        if report.left_at_init:
            why = ", as they should, because ImageNet's weights are of the body alone" if weights == IMAGENET else ""
            parts = _parts(report.left_at_init)
            _logger.warning("%s: these tensors of %s stay random%s: %s", weights, model, why, parts)
    return cast(Segmenter, segmenter)


def _builder(model: str) -> Callable[..., Any]:
    module_name, _, function_name = BUILDERS[model].partition(":")
    builder: Callable[..., Any] = getattr(importlib.import_module(module_name), function_name)
    return partial(builder, family=model) if "family" in inspect.signature(builder).parameters else builder


def _check_options(model: str, builder: Callable[..., Any], options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(builder).parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return
    own = [name for name in parameters if name not in ("family", "num_classes", "min_size")]
    for option in options:
        if option not in own:
            raise InputError(f"model_options.{option}: {model} takes {'only ' + ', '.join(own) if own else 'none'}")


def _parts(names: Iterable[str]) -> str:
    """Count tensors per part of the model, because a whole model has hundreds."""
    counts = Counter(".".join(name.split(".")[:2]) for name in names)
    return ", ".join(f"{part} ({num} tensors)" for part, num in counts.items())


def _users_class(model: str) -> Callable[..., Any]:
    module_name, colon, class_name = model.partition(":")
    if not colon or not module_name or not class_name:
        near = difflib.get_close_matches(model, BUILDERS, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise InputError(f"unknown model {model!r}. {hint}Valid: {', '.join(BUILDERS)}, or your own module:Class")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(f"model {model}: no module {error.name}. It must be on PYTHONPATH") from error
    if not hasattr(module, class_name):
        raise InputError(f"model {model}: module {module_name} has no {class_name}")
    return getattr(module, class_name)
