"""The sizes of Mask2Former and EoMT that a config may name, as settings of transformers."""

from typing import Any

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
