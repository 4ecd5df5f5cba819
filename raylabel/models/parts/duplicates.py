"""Suppression of duplicates by masks or by boxes, whatever the class."""

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

from raylabel.models.parts.map_masks import mask_iou_matrix

DUPLICATE_IOU = 0.5
MIN_BOX_SIDE = 1.0
NUM_CANDIDATES = 300


def distinct_masks(mask_logits: Tensor, probs: Tensor, score_threshold: float) -> Tensor:
    """Choose the non-empty masks that overlap no better mask, and return their rows by falling score.

    Only the NUM_CANDIDATES best masks are compared. Two masks are duplicates if their IoU exceeds DUPLICATE_IOU.

    Args:
        mask_logits: (N, h, w).
        probs: (N, num_classes + 1), background last.
        score_threshold: least score of the likeliest class.
    """
    scores = probs[:, :-1].amax(dim=1)
    is_inside = mask_logits.flatten(1) > 0
    rows = torch.where((scores >= score_threshold) & is_inside.any(dim=1))[0]
    rows = rows[torch.sort(scores[rows], descending=True, stable=True).indices][:NUM_CANDIDATES]
    overlaps = (mask_iou_matrix(is_inside[rows], is_inside[rows]) > DUPLICATE_IOU).cpu().numpy()
    is_kept = np.ones(len(rows), bool)
    for place in range(len(rows)):
        is_kept[place] = not (overlaps[place, :place] & is_kept[:place]).any()
    return rows[torch.from_numpy(is_kept).to(rows.device)]


def distinct_boxes(
    boxes_xyxy: Tensor, probs: Tensor, score_threshold: float, *, iou_threshold: float = DUPLICATE_IOU
) -> Tensor:
    """Choose the boxes that overlap no better box, and return their rows by falling score.

    Boxes with a side below MIN_BOX_SIDE pixels are dropped.

    Args:
        boxes_xyxy: (N, 4), clipped to the image.
        probs: (N, num_classes + 1), background last.
        score_threshold: least score of the likeliest class.
        iou_threshold: boxes with a higher IoU are duplicates.
    """
    scores = probs[:, :-1].amax(dim=1)
    is_large = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2] >= MIN_BOX_SIDE).all(dim=1)
    rows = torch.where((scores >= score_threshold) & is_large)[0]
    return rows[nms(boxes_xyxy[rows], scores[rows], iou_threshold)]
