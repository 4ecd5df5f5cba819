"""Averages of a map over masks, with figures that can be checked by hand."""

import pytest
import torch

from raylabel.errors import InputError
from raylabel.models.build import build_segmenter
from raylabel.models.parts.mask_embedding import average_over_masks
from raylabel.models.segmenter import Target


def test_cells_count_by_the_share_that_the_mask_covers() -> None:
    """The map has 1 x 2 cells over 4 x 8 pixels. The mask covers the left cell and half of the right one."""
    features = torch.tensor([[[[3.0, 0.0]], [[0.0, 6.0]]]])
    mask = torch.zeros(1, 4, 8, dtype=torch.bool)
    mask[0, :, :6] = True
    [embedding] = average_over_masks(features, [mask], [(4, 8)], (4, 8))
    mean = torch.tensor([3.0 * 1, 6.0 * 0.5]) / 1.5
    torch.testing.assert_close(embedding[0], mean / mean.norm())


def test_padding_and_resizing_do_not_move_the_mask() -> None:
    """The image is seen at half its size, with padding as large again at the bottom and right."""
    features = torch.tensor([[[[3.0, 0.0, 9.0, 9.0], [9.0] * 4], [[0.0, 6.0, -9.0, -9.0], [-9.0] * 4]]])
    mask = torch.zeros(1, 8, 16, dtype=torch.bool)
    mask[0, :, :12] = True
    [embedding] = average_over_masks(features, [mask], [(4, 8)], (8, 16))
    mean = torch.tensor([2.0, 2.0])
    torch.testing.assert_close(embedding[0], mean / mean.norm())


def test_the_layer_is_chosen_by_name() -> None:
    torch.manual_seed(0)
    segmenter = build_segmenter("tiny_maskrcnn", num_classes=2)
    image, masks = torch.rand(3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.bool)
    masks[0, :32, :32] = True
    box = torch.tensor([[0.0, 0, 32, 32]])
    target = Target(boxes_xyxy=box, masks_NHW=masks, class_probs=torch.tensor([[1.0, 0, 0]]), weights=torch.ones(1))
    sizes = {layer: segmenter.embed([image], [target], layer=layer).shape for layer in segmenter.embed_layers}
    assert sizes == {"box_head": (1, 128), "backbone": (1, 96)}
    with pytest.raises(InputError, match=r"smoothing.layer must be one of box_head, backbone, got neck"):
        segmenter.embed([image], [target], layer="neck")
