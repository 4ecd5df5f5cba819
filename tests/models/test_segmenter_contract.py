"""Every segmenter, real or fake, keeps one contract; a broken promise is named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from onnx_graphs import export_toy
from raylabel.errors import InputError
from raylabel.models.build import build_segmenter
from raylabel.models.contract import check_segmenter
from raylabel.models.segmenter import Segmenter

SUPPORT = Path(__file__).resolve().parents[1] / "support"
LARGE = (
    "maskrcnn_efficientnet_lite0",
    "maskrcnn_mobilenet_v3_large_fpn",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
)


EXTRA_OF = {
    "maskrcnn_efficientnet_lite0": ("pretrained", "efficientnet_lite_pytorch"),
    "mask2former_tiny": ("transformers", "transformers"),
    "eomt_tiny": ("transformers", "transformers"),
    "onnx": ("onnx", "onnxruntime"),
}
"""Model -> the extra that it needs, and a package of that extra."""


def build_small(model: str, scratch: Path = Path()) -> Segmenter:
    """Build a segmenter with few regions, so that large models stay quick."""
    if model in EXTRA_OF:
        extra, package = EXTRA_OF[model]
        pytest.importorskip(package, reason=f"needs the extra {extra}")
    torch.manual_seed(0)
    weights = None
    if model == "onnx":
        weights = str(scratch / "toy.onnx")
        export_toy(Path(weights), 5)
    segmenter = build_segmenter(model, num_classes=5, weights=weights)
    if model in LARGE:
        segmenter.roi_heads.fg_bg_sampler.batch_size_per_image = 4
        segmenter.rpn._post_nms_top_n = {"training": 8, "testing": 8}
    return segmenter


@pytest.mark.parametrize(
    "model", ["tiny_maskrcnn", *LARGE, "mask2former_tiny", "eomt_tiny", "onnx", "fakes:FakeSegmenter"]
)
def test_segmenter_keeps_the_contract(model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(SUPPORT))
    sizes = ((32, 32), (32, 40)) if model in LARGE else ((64, 64), (48, 80))
    check_segmenter(build_small(model, tmp_path), image_sizes_hw=sizes)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("losses", "losses must have the terms"),
        ("predict", "soft_vectors must sum to 1"),
        ("embed", "unit-length"),
    ],
)
def test_a_broken_promise_is_named(broken: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = build_small("tiny_maskrcnn")
    right = getattr(segmenter, broken)

    def wrong(*args: object, **kwargs: object) -> object:
        got = right(*args, **kwargs)
        if broken == "losses":
            return {**got, "surprise": torch.zeros(())}
        if broken == "embed":
            return got * 2
        return [replace(one, soft_vectors=np.ones_like(one.soft_vectors)) for one in got]

    monkeypatch.setattr(segmenter, broken, wrong)
    with pytest.raises(InputError, match=message):
        check_segmenter(segmenter)


def test_unknown_models_are_refused_with_the_valid_names() -> None:
    with pytest.raises(InputError, match=r"Did you mean tiny_maskrcnn\?.*mobilenet_v3.*resnet50_fpn_v2.*module:Class"):
        build_segmenter("tiny_maskrcn", num_classes=3)
    with pytest.raises(InputError, match="no module no_such_module_at_all"):
        build_segmenter("no_such_module_at_all:Model", num_classes=3)
    with pytest.raises(InputError, match="json has no Model"):
        build_segmenter("json:Model", num_classes=3)


def test_a_class_that_is_no_segmenter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class NotOne(nn.Module):
        def __init__(self, num_classes: int, min_size: int | None) -> None:
            super().__init__()

    monkeypatch.setattr("fractions.NotOne", NotOne, raising=False)
    with pytest.raises(InputError, match="lacks num_classes, embed_layers, losses, predict, embed"):
        build_segmenter("fractions:NotOne", num_classes=3)
