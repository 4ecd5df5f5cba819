"""Suppression of duplicates, by hand."""

import torch

from raylabel.models.parts.duplicates import distinct_boxes, distinct_masks

PROBS = torch.tensor([[0.5, 0.1, 0.4], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [0.9, 0.0, 0.1]])


def test_of_overlapping_masks_the_better_one_is_left_whatever_its_class() -> None:
    masks = torch.full((4, 8, 8), -1.0)
    masks[0, :4, :4] = 1
    masks[1, :4, :3] = 1  # IoU 0.75 with the first
    masks[2, 4:, 4:] = 1
    assert distinct_masks(masks, PROBS, 0.0).tolist() == [1, 2]  # the fourth is empty
    assert distinct_masks(masks, PROBS, 0.3).tolist() == [1]


def test_the_better_of_two_overlapping_boxes_is_kept_whatever_its_class() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 3, 4], [4, 4, 8, 8], [5, 5, 5.9, 8]])
    assert distinct_boxes(boxes, PROBS, 0.0).tolist() == [1, 2]  # the fourth is less than a pixel wide
    assert distinct_boxes(boxes, PROBS, 0.3).tolist() == [1]
    assert distinct_boxes(boxes, PROBS, 0.0, iou_threshold=0.75).tolist() == [1, 0, 2]


def test_no_object() -> None:
    assert distinct_masks(torch.zeros(0, 8, 8), torch.zeros(0, 3), 0.0).tolist() == []
    assert distinct_boxes(torch.zeros(0, 4), torch.zeros(0, 3), 0.0).tolist() == []


def test_a_suppressed_mask_suppresses_nothing() -> None:
    """Of a chain in which neighbours overlap, the second goes, and the third overlaps it alone."""
    masks = torch.full((3, 1, 12), -1.0)
    for row, (first, last) in enumerate([(0, 6), (1, 8), (3, 10)]):  # IoU 5/8, 5/9, and 3/10 of the ends
        masks[row, 0, first:last] = 1
    probs = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    assert distinct_masks(masks, probs, 0.0).tolist() == [0, 2]


def test_masks_whose_iou_is_the_limit_are_both_kept() -> None:
    masks = torch.full((2, 1, 12), -1.0)
    masks[0, 0, :6] = masks[1, 0, :3] = 1  # IoU 3/6
    assert distinct_masks(masks, torch.tensor([[0.9, 0.1], [0.8, 0.2]]), 0.0).tolist() == [0, 1]
