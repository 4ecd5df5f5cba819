"""The light operations equal torchvision's and torch's layers, forward and backward."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign

from raylabel.models.rcnn.light_roi_ops import DoublingMaskPredictor, TableRoIAlign

LEVELS = ["0", "1", "2"]


def some_boxes(num: int, generator: torch.Generator) -> Tensor:
    """Draw boxes of all sizes, some beyond the image and some thinner than a pixel."""
    corners = torch.rand(num, 2, generator=generator) * 140 - 20
    sides = torch.rand(num, 2, generator=generator) ** 3 * 200 + 0.1
    return torch.cat([corners, corners + sides], dim=1)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), side=st.integers(1, 10), nums=st.lists(st.integers(0, 5), min_size=1, max_size=3))
def test_pooling_is_torchvisions(seed: int, side: int, nums: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes_hw = [(112, 128)] * len(nums)
    boxes = [some_boxes(num, generator) for num in nums]
    maps = {
        level: torch.randn(len(nums), 5, 112 // stride, 128 // stride, generator=generator, requires_grad=True)
        for level, stride in zip(LEVELS, (4, 8, 16), strict=True)
    }
    theirs = MultiScaleRoIAlign(LEVELS, output_size=side, sampling_ratio=1)(maps, boxes, sizes_hw)
    ours = TableRoIAlign(LEVELS, side)(maps, boxes, sizes_hw)
    assert ours.shape == (sum(nums), 5, side, side)
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)
    if not sum(nums):
        return
    weights = torch.randn(theirs.shape, generator=generator)
    for got, expected in zip(
        torch.autograd.grad(ours, list(maps.values()), weights),
        torch.autograd.grad(theirs, list(maps.values()), weights),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_mask_logits_are_those_of_the_layers_one_after_the_other(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    predictor = DoublingMaskPredictor(6)
    features = torch.randn(3, 6, 5, 4).to(memory_format=layout).requires_grad_()
    plain = nn.Sequential(*predictor)
    assert list(plain.state_dict()) == list(predictor.state_dict())
    ours, theirs = predictor(features), plain(features)
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn(ours.shape)
    wanted = [features, *predictor.parameters()]
    for got, expected in zip(
        torch.autograd.grad(ours, wanted, weights), torch.autograd.grad(theirs, wanted, weights), strict=True
    ):
        torch.testing.assert_close(got, expected)
