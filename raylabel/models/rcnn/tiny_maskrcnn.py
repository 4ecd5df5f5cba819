"""A Mask R-CNN of under a million parameters that trains from scratch on a CPU."""

from collections import OrderedDict

from torch import Tensor, nn

from raylabel.models.parts.preprocessing import ResizeAndNormalise
from raylabel.models.rcnn.light_heads import GROUPS, assemble_light_maskrcnn, normed_conv
from raylabel.models.rcnn.pyramid import PyramidBackbone
from raylabel.models.rcnn.soft_maskrcnn import SoftMaskRCNN

STAGE_CHANNELS = (32, 64, 96)
STAGE_STRIDES = (4, 8, 16)
PYRAMID_CHANNELS = 48
ANCHOR_SIZES = {"1": (16, 24, 36), "2": (48, 72, 108)}


def build_tiny_maskrcnn(*, num_classes: int, min_size: int | None = None) -> SoftMaskRCNN:
    """Build a tiny Mask R-CNN for images of about 128 to 320 pixels, initialised at random.

    Args:
        num_classes: number of foreground classes.
        min_size: length of the short side that images are resized to; None keeps their size.
    """
    return assemble_light_maskrcnn(
        PyramidBackbone(TinyBody(), STAGE_CHANNELS, PYRAMID_CHANNELS),
        levels=[str(level) for level in range(len(STAGE_CHANNELS))],
        anchor_sizes=ANCHOR_SIZES,
        num_proposals=100,
        num_regions=32,
        num_classes=num_classes,
        transform=ResizeAndNormalise(min_size, size_divisible=STAGE_STRIDES[-1]),
    )


class TinyBody(nn.Module):
    """Residual stages at strides 4, 8 and 16."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = normed_conv(3, 24, stride=2)
        channels = (24, *STAGE_CHANNELS)
        self.stages = nn.ModuleList(
            ResidualBlock(before, after) for before, after in zip(channels, STAGE_CHANNELS, strict=False)
        )

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Compute maps "0", "1" and "2" at strides 4, 8 and 16."""
        features = self.stem(images)
        maps = OrderedDict()
        for level, stage in enumerate(self.stages):
            features = stage(features)
            maps[str(level)] = features
        return maps


class ResidualBlock(nn.Module):
    """A convolution that halves the map, then a residual pair of convolutions."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.down = normed_conv(before, after, stride=2)
        self.residual = nn.Sequential(
            normed_conv(after, after), nn.Conv2d(after, after, 3, padding=1, bias=False), nn.GroupNorm(GROUPS, after)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Compute a map of half the side."""
        features = self.down(features)
        return (features + self.residual(features)).relu()
