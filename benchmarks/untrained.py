"""Untrained models whose predictions cost as much as those of trained models."""

from typing import Any

import torch
from torch import nn

from raylabel.models.build import build_segmenter


def build(model: str, num_classes: int, images: list[torch.Tensor]) -> Any:
    """Build a random model. Its norms are fitted to its activations, so that its numbers have the usual size."""
    torch.manual_seed(0)
    segmenter: Any = build_segmenter(model, num_classes=num_classes)
    for module in segmenter.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    segmenter.train()
    with torch.no_grad():
        for image in images:
            segmenter.backbone(segmenter.transform([image])[0].tensors)
    return segmenter.eval()
