"""A body with a feature pyramid, under the names of torchvision's BackboneWithFPN."""

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork


class PyramidBackbone(nn.Module):
    """A feature pyramid on the maps of a body.

    Args:
        body: image batch -> maps by level, from fine to coarse.
        body_channels: channels of each map of the body.
        out_channels: channels of each map of the pyramid.
    """

    def __init__(self, body: nn.Module, body_channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(list(body_channels), out_channels)
        self.out_channels = out_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the pyramid's maps, under the names of the body's levels."""
        return self.fpn(self.body(images))
