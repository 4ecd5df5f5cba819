"""Builders of Mask2Former and EoMT. They need the extra `transformers`."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from raylabel.errors import InputError
from raylabel.models.extras import import_extra
from raylabel.models.parts.preprocessing import ResizeAndNormalise
from raylabel.models.query.families import EOMTS, MASK2FORMERS, STAGES

COARSEST_STRIDE = 32


def build_mask2former(*, family: str, num_classes: int, min_size: int | None = None, **options: Any) -> nn.Module:
    """Build a Mask2Former, initialised at random. Weights of transformers' models of the same sizes fit.

    Args:
        family: one of MASK2FORMERS.
        num_classes: number of foreground classes.
        min_size: length of the short side that images are resized to; None keeps their size.
        options: settings of transformers' Mask2FormerConfig. `backbone_config` is merged into the family's if
            `model_type` is the same, and replaces it otherwise.

    Raises:
        InputError: the extra `transformers` is not installed, or an option is unknown or invalid.
    """
    transformers = import_extra("transformers", extra="transformers", needed_by=family)
    config = _configure(transformers.Mask2FormerConfig, family, MASK2FORMERS[family], options, num_classes)
    from raylabel.models.query.networks import Mask2Former

    transform = ResizeAndNormalise(min_size, size_divisible=COARSEST_STRIDE)
    return _assemble(Mask2Former, family, config, num_classes, transform)


def build_eomt(*, family: str, num_classes: int, min_size: int | None = None, **options: Any) -> nn.Module:
    """Build an EoMT, initialised at random. Weights of transformers' models of the same sizes fit.

    Args:
        family: one of EOMTS.
        num_classes: number of foreground classes.
        min_size: must be None, because the network sees squares of side `image_size`. The long side of an image fills
            the square.
        options: settings of transformers' EomtConfig.

    Raises:
        InputError: the extra `transformers` is not installed, an option is unknown or invalid, or `min_size` is given.
    """
    transformers = import_extra("transformers", extra="transformers", needed_by=family)
    config = _configure(transformers.EomtConfig, family, EOMTS[family], options, num_classes)
    if min_size is not None:
        raise InputError(
            f"min_size: {family} sees squares and takes none, got {min_size}. Set model_options.image_size instead."
        )
    from raylabel.models.query.networks import Eomt

    side = config.image_size
    transform = ResizeAndNormalise(side, max_size=side, size_divisible=side)
    return _assemble(Eomt, family, config, num_classes, transform)


def _configure(kind: Any, name: str, base: Mapping[str, Any], options: Mapping[str, Any], num_classes: int) -> Any:
    known = set(kind.__dataclass_fields__) - {"num_labels", "id2label", "label2id"}
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"See transformers' {kind.__name__}"
            raise InputError(f"model_options.{option}: {name} has no such option. {hint}")
    settings = {**base, **options, "num_labels": num_classes}
    backbone, wanted = base.get("backbone_config", {}), options.get("backbone_config", {})
    if wanted:
        is_same = wanted.get("model_type", backbone["model_type"]) == backbone["model_type"]
        settings["backbone_config"] = {**backbone, **wanted} if is_same else {"out_features": STAGES, **wanted}
    try:
        return kind(**settings)
    except Exception as error:
        # Every exception, because transformers reports bad settings with many kinds.
        raise InputError(f"model_options of {name}: {' '.join(str(error).split())[:200]}") from error


def _assemble(
    network: Callable[[Any], Any], name: str, config: Any, num_classes: int, transform: ResizeAndNormalise
) -> nn.Module:
    from raylabel.models.query.loss import SoftQueryLoss
    from raylabel.models.query.segmenter import QuerySegmenter

    try:
        built = network(config)
    except (ValueError, RuntimeError, TypeError, KeyError) as error:
        raise InputError(f"model_options of {name}: {' '.join(str(error).split())[:200]}") from error
    return QuerySegmenter(num_classes=num_classes, transform=transform, network=built, criterion=SoftQueryLoss(config))
