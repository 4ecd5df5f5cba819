"""torchvision's pooling and mask upscaling, computed in an order that is fast on CPUs."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign


class TableRoIAlign(MultiScaleRoIAlign):
    """MultiScaleRoIAlign with one sampling point per cell.

    torchvision handles one level after the other, and its gradients add single numbers that are far apart in memory.
    Here the cells of all maps are rows of one table, and a point is the weighted sum of four rows. Values and gradients
    equal torchvision's up to rounding. Devices other than CPUs run torchvision's code.

    Args:
        featmap_names: levels from fine to coarse.
        output_size: cells per side.
    """

    def __init__(self, featmap_names: list[str], output_size: int) -> None:
        super().__init__(featmap_names, output_size, sampling_ratio=1)

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Pool the boxes of each image: (sum of N, channels, side, side)."""
        maps = [x[name] for name in self.featmap_names]
        num_regions, side, channels = sum(len(one) for one in boxes), self.output_size[0], maps[0].shape[1]
        if maps[0].device.type != "cpu" or not num_regions:
            return super().forward(x, boxes, image_shapes)
        height = max(shape[0] for shape in image_shapes)
        scales = torch.tensor([2.0 ** round(math.log2(one.shape[-2] / height)) for one in maps])
        regions, of_image = (
            torch.cat(boxes),
            torch.arange(len(boxes)).repeat_interleave(torch.tensor([len(one) for one in boxes])),
        )
        level = _level(regions, scales, self.canonical_scale, self.canonical_level)
        sizes_wh = torch.tensor([[one.shape[-1], one.shape[-2]] for one in maps])
        num_cells = len(boxes) * sizes_wh.prod(dim=1)
        first_row = (num_cells.cumsum(0) - num_cells)[level] + of_image * sizes_wh[level].prod(dim=1)

        places, shares = _neighbours(regions * scales[level, None], sizes_wh[level], side)  # (N, xy, side, 2)
        rows = first_row[:, None, None, None, None] + (
            places[:, 1, :, None, :, None] * sizes_wh[level, 0, None, None, None, None] + places[:, 0, None, :, None, :]
        )
        weights = shares[:, 1, :, None, :, None] * shares[:, 0, None, :, None, :]
        table = torch.cat([one.permute(0, 2, 3, 1).reshape(-1, channels) for one in maps]).float()
        pooled = F.embedding_bag(
            rows.reshape(-1, 4), table, mode="sum", per_sample_weights=weights.reshape(-1, 4).to(table.dtype)
        )
        return pooled.view(num_regions, side, side, channels).permute(0, 3, 1, 2)


def _level(regions: Tensor, scales: Tensor, canonical_scale: int, canonical_level: int) -> Tensor:
    """Choose the map that each region is read from, (N,) (Lin et al. 2017, arXiv 1612.03144, eq. 1)."""
    sides = ((regions[:, 2] - regions[:, 0]) * (regions[:, 3] - regions[:, 1])).sqrt()
    wanted = torch.floor(canonical_level + torch.log2(sides / canonical_scale) + 1e-6)
    finest, coarsest = (-scales[[0, -1]].log2()).tolist()
    return (wanted.clamp(finest, coarsest) - finest).long()


def _neighbours(boxes: Tensor, sizes_wh: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Find the two cells around each sampling point along x and y, (N, 2, side, 2), and their shares; outside: 0."""
    cells = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1) / side
    points = boxes[:, :2, None] + cells[:, :, None] * (torch.arange(side) + 0.5)
    ends = sizes_wh[:, :, None].to(points.dtype)
    is_inside = (points >= -1) & (points <= ends)
    points = torch.minimum(points.clamp(min=0), ends - 1)
    low = points.floor()
    share = points - low
    places = torch.stack([low, torch.minimum(low + 1, ends - 1)], dim=-1).long()
    return places, torch.stack([1 - share, share], dim=-1) * is_inside[..., None]


class DoublingMaskPredictor(nn.Sequential):
    """One mask logit per pixel at twice the side: a 2 x 2 deconvolution, ReLU and a 1 x 1 convolution.

    The four pixels of a cell depend on that cell only, so both layers are matrix products. Only the resulting single
    channel is rearranged into pixels.

    Args:
        channels: input channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(nn.ConvTranspose2d(channels, channels, 2, stride=2), nn.ReLU(), nn.Conv2d(channels, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, 1, 2 H, 2 W)."""
        num, channels, height, width = features.shape
        up: Any = self[0]
        out: Any = self[2]
        cells = features.permute(0, 2, 3, 1).reshape(-1, channels)
        pixels = torch.addmm(up.bias.repeat(4), cells, up.weight.permute(0, 2, 3, 1).reshape(channels, -1))
        logits = torch.addmm(out.bias, pixels.view(-1, channels).relu(), out.weight.view(-1, 1))
        return logits.view(num, height, width, 2, 2).permute(0, 1, 3, 2, 4).reshape(num, 1, 2 * height, 2 * width)
