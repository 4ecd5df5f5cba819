"""Builders of Mask2Former and EoMT. They need the extra `transformers`."""

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from raylabel.errors import InputError
from raylabel.models.extras import import_extra
from raylabel.models.parts.preprocessing import ResizeAndNormalise

COARSEST_STRIDE = 32
STAGES = ["stage1", "stage2", "stage3", "stage4"]


def _swin(embed_dim: int, depths: tuple[int, ...], window_size: int) -> dict[str, Any]:
    """Describe a Swin transformer of the paper. Each attention head has 32 channels."""
    heads = [embed_dim // 32 * 2**stage for stage in range(4)]
    return {
        "model_type": "swin",
        "embed_dim": embed_dim,
        "depths": list(depths),
        "num_heads": heads,
        "window_size": window_size,
        "drop_path_rate": 0.3,
        "out_features": STAGES,
    }


TINY: dict[str, Any] = {
    "backbone_config": {
        "model_type": "swin",
        "embed_dim": 24,
        "depths": [1, 1, 2, 1],
        "num_heads": [2, 2, 4, 4],
        "window_size": 4,
        "image_size": 128,
        "drop_path_rate": 0.0,
        "out_features": STAGES,
    },
    "feature_size": 64,
    "mask_feature_size": 64,
    "hidden_dim": 64,
    "encoder_feedforward_dim": 128,
    "dim_feedforward": 128,
    "encoder_layers": 2,
    "decoder_layers": 4,
    "num_attention_heads": 4,
    "num_queries": 30,
    "train_num_points": 1024,
}
"""Settings for 1.1 million parameters and images of about 128 pixels."""

MASK2FORMERS: dict[str, dict[str, Any]] = {
    "mask2former_tiny": TINY,
    "mask2former_swin_t": {"backbone_config": _swin(96, (2, 2, 6, 2), 7)},
    "mask2former_swin_s": {"backbone_config": _swin(96, (2, 2, 18, 2), 7)},
    "mask2former_swin_b": {"backbone_config": _swin(128, (2, 2, 18, 2), 12)},
    "mask2former_swin_l": {"backbone_config": _swin(192, (2, 2, 18, 2), 12), "num_queries": 200},
    "mask2former_resnet50": {"backbone_config": {"model_type": "resnet", "out_features": STAGES}},
}
"""Name -> settings that differ from transformers' Mask2FormerConfig. Depths and widths are those of the paper."""

EOMTS: dict[str, dict[str, Any]] = {
    "eomt_tiny": {
        "hidden_size": 96,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "mlp_ratio": 2,
        "image_size": 128,
        "patch_size": 8,
        "num_blocks": 3,
        "num_upscale_blocks": 1,
        "num_queries": 30,
        "train_num_points": 1024,
    },
    "eomt_large": {},
}
"""Name -> settings that differ from transformers' EomtConfig."""


def _build_mask2former(name: str, *, num_classes: int, min_size: int | None = None, **options: Any) -> nn.Module:
    """Build a Mask2Former, initialised at random. Weights of transformers' models of the same sizes fit.

    Args:
        name: one of MASK2FORMERS.
        num_classes: number of foreground classes.
        min_size: length of the short side that images are resized to; None keeps their size.
        options: settings of transformers' Mask2FormerConfig. `backbone_config` is merged into the family's if
            `model_type` is the same, and replaces it otherwise.

    Raises:
        InputError: the extra `transformers` is not installed, or an option is unknown or invalid.
    """
    transformers = import_extra("transformers", extra="transformers", needed_by=name)
    config = _configure(transformers.Mask2FormerConfig, name, MASK2FORMERS[name], options, num_classes)
    from raylabel.models.query.networks import Mask2Former

    transform = ResizeAndNormalise(min_size, size_divisible=COARSEST_STRIDE)
    return _assemble(Mask2Former, name, config, num_classes, transform)


def _build_eomt(name: str, *, num_classes: int, min_size: int | None = None, **options: Any) -> nn.Module:
    """Build an EoMT, initialised at random. Weights of transformers' models of the same sizes fit.

    Args:
        name: one of EOMTS.
        num_classes: number of foreground classes.
        min_size: must be None, because the network sees squares of side `image_size`. The long side of an image fills
            the square.
        options: settings of transformers' EomtConfig.

    Raises:
        InputError: the extra `transformers` is not installed, an option is unknown or invalid, or `min_size` is given.
    """
    transformers = import_extra("transformers", extra="transformers", needed_by=name)
    config = _configure(transformers.EomtConfig, name, EOMTS[name], options, num_classes)
    if min_size is not None:
        raise InputError(
            f"min_size: {name} sees squares and takes none, got {min_size}. Set model_options.image_size instead."
        )
    from raylabel.models.query.networks import Eomt

    side = config.image_size
    transform = ResizeAndNormalise(side, max_size=side, size_divisible=side)
    return _assemble(Eomt, name, config, num_classes, transform)


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


QUERY_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    **{name: partial(_build_mask2former, name) for name in MASK2FORMERS},
    **{name: partial(_build_eomt, name) for name in EOMTS},
}
"""Name in the config -> function of `num_classes`, `min_size` and options."""
