"""A Mask R-CNN with soft class vectors, the Segmenter that all R-CNN families build."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.models.detection.transform import resize_boxes

from raylabel.models.parts.mask_embedding import average_over_masks
from raylabel.models.parts.mask_parts import assemble_instances, mask_part
from raylabel.models.parts.preprocessing import ResizeAndNormalise, by_size, in_mode, target_dict
from raylabel.models.rcnn.soft_roi_heads import RegionPredictions, SoftRoIHeads
from raylabel.models.segmenter import LOSS_TERMS, LossTerm, Target, chosen_layer
from raylabel.predictions.instances import Instances


class SoftMaskRCNN(nn.Module):
    """A Segmenter made of torchvision's parts.

    Args:
        num_classes: number of foreground classes.
        transform: resizing and normalisation.
        backbone: image batch -> dict of feature maps. Its `body` gives the maps before the pyramid.
        rpn: region proposals.
        roi_heads: box and mask heads.
    """

    embed_layers: tuple[str, ...] = ("box_head", "backbone")

    def __init__(
        self,
        *,
        num_classes: int,
        transform: ResizeAndNormalise,
        backbone: nn.Module,
        rpn: RegionProposalNetwork,
        roi_heads: SoftRoIHeads,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.transform = transform
        self.backbone: Any = backbone
        self.rpn = rpn
        self.roi_heads = roi_heads

    def losses(
        self, images: list[Tensor], targets: Sequence[Target], *, terms: frozenset[LossTerm] = LOSS_TERMS
    ) -> dict[str, Tensor]:
        """See Segmenter. `boxes` sums the losses of the proposals and of the box head."""
        with in_mode(self, training=True):
            batch, resized = self.transform(images, [target_dict(target) for target in targets])
            features = self.backbone(batch.tensors)
            proposals, rpn_losses = self.rpn(batch, features, resized)
            losses = self.roi_heads(features, proposals, batch.image_sizes, resized, terms)
        if "objectness" in terms:
            losses["objectness"] = rpn_losses["loss_objectness"]
        if "boxes" in terms:
            losses["boxes"] = losses["boxes"] + rpn_losses["loss_rpn_box_reg"]
        return losses

    @torch.no_grad()
    def predict(self, images: list[Tensor], *, score_threshold: float, max_per_image: int) -> list[Instances]:
        """See Segmenter. Predictions for an image do not depend on the other images of the batch."""

        def predict_rows(rows: list[int]) -> list[Instances]:
            batch, features = self._features([images[row] for row in rows])
            proposals, _ = self.rpn(batch, features)
            found = self.roi_heads.detect(
                features, proposals, batch.image_sizes, score_threshold=score_threshold, max_per_image=max_per_image
            )
            return [
                _instances(one, seen_size, (images[row].shape[-2], images[row].shape[-1]))
                for row, one, seen_size in zip(rows, found, batch.image_sizes, strict=True)
            ]

        with in_mode(self, training=False):
            return by_size(images, predict_rows)

    @torch.no_grad()
    def embed(self, images: list[Tensor], targets: Sequence[Target], *, layer: str | None = None) -> Tensor:
        """See Segmenter.

        `box_head` reads the box head's features of the targets' boxes. `backbone` reads the body's last map.
        """
        layer = chosen_layer(self.embed_layers, layer)
        embed_targets = self._embed_boxes if layer == "box_head" else self._embed_masks

        def embed_rows(rows: list[int]) -> Sequence[Tensor]:
            batch, _ = self.transform([images[row] for row in rows])
            sizes = [(images[row].shape[-2], images[row].shape[-1]) for row in rows]
            return embed_targets(batch, sizes, [targets[row] for row in rows])

        with in_mode(self, training=False):
            return torch.cat(by_size(images, embed_rows))

    def _embed_boxes(
        self, batch: ImageList, sizes_hw: list[tuple[int, int]], targets: Sequence[Target]
    ) -> Sequence[Tensor]:
        boxes = [
            resize_boxes(target.boxes_xyxy, size, seen_size)
            for target, size, seen_size in zip(targets, sizes_hw, batch.image_sizes, strict=True)
        ]
        features = self.roi_heads.box_features(self.backbone(batch.tensors), boxes, batch.image_sizes).float()
        return F.normalize(features, dim=1).split([len(target) for target in targets])

    def _embed_masks(
        self, batch: ImageList, sizes_hw: list[tuple[int, int]], targets: Sequence[Target]
    ) -> Sequence[Tensor]:
        *_, last_map = self.backbone.body(batch.tensors).values()
        masks = [target.masks_NHW for target in targets]
        height, width = batch.tensors.shape[-2:]
        return average_over_masks(last_map, masks, batch.image_sizes, (height, width))

    def _features(self, images: list[Tensor]) -> tuple[ImageList, dict[str, Tensor]]:
        batch, _ = self.transform(images)
        return batch, self.backbone(batch.tensors)


def paste_mask(
    mask_probs: Tensor, box_xyxy: Sequence[float], image_size_hw: tuple[int, int]
) -> tuple[NDArray[np.float32], tuple[slice, slice]]:
    """Resize a mask to its box, cut to the image.

    Only the box is computed, not the image. Many masks of a large image therefore stay cheap. The values are those of
    torchvision's `paste_masks_in_image`, including its border of one cell.

    Args:
        mask_probs: (M, M) over the box.
        box_xyxy: box in pixels of the image.
        image_size_hw: size of the image.

    Returns:
        Probabilities of the part, and its rows and columns in the image.
    """
    # Single precision as in torchvision, because it decides on which pixel an edge falls.
    x0, y0, x1, y1 = (np.float32(value) for value in box_xyxy)
    side = mask_probs.shape[-1]
    half, scale = np.float32(0.5), np.float32((side + 2) / side)
    half_width, half_height = (x1 - x0) * half * scale, (y1 - y0) * half * scale
    left, right = (int((x0 + x1) * half + sign * half_width) for sign in (-1, 1))
    top, bottom = (int((y0 + y1) * half + sign * half_height) for sign in (-1, 1))
    height, width = max(bottom - top + 1, 1), max(right - left + 1, 1)
    padded = F.pad(mask_probs[None, None], (1, 1, 1, 1))
    resized = F.interpolate(padded, size=(height, width), mode="bilinear", align_corners=False)[0, 0]
    rows = slice(max(top, 0), max(min(top + height, image_size_hw[0]), 0))
    columns = slice(max(left, 0), max(min(left + width, image_size_hw[1]), 0))
    inside = resized[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    return inside.cpu().numpy(), (rows, columns)


def _instances(found: RegionPredictions, seen_size_hw: tuple[int, int], image_size_hw: tuple[int, int]) -> Instances:
    boxes = resize_boxes(found.boxes_xyxy, seen_size_hw, image_size_hw).cpu()
    mask_probs, probs = found.mask_probs.cpu(), found.class_probs.cpu().numpy().astype(np.float32)
    parts = [
        mask_part(*paste_mask(one, box_xyxy, image_size_hw))
        for one, box_xyxy in zip(mask_probs, boxes.tolist(), strict=True)
    ]
    return assemble_instances(parts, boxes.numpy().astype(np.float32), probs, image_size_hw)
