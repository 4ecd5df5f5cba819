"""Box and mask heads with soft class targets: torchvision's RoIHeads that keep the whole class vector."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads, project_masks_on_boxes
from torchvision.ops import clip_boxes_to_image

from raylabel.models.parts.class_mask import among_classes
from raylabel.models.parts.duplicates import distinct_boxes
from raylabel.models.segmenter import LossTerm


class SoftBoxPredictor(nn.Module):
    """Class logits with background last, and one box per region whatever its class.

    torchvision's layers `cls_score` and `bbox_pred` have background first and a box per class. The names here differ
    from torchvision's, so that such weights cannot be loaded by accident.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.class_logits = nn.Linear(in_channels, num_classes + 1)
        self.box_deltas = nn.Linear(in_channels, 4)
        nn.init.normal_(self.class_logits.weight, std=0.01)
        nn.init.zeros_(self.class_logits.bias)
        nn.init.normal_(self.box_deltas.weight, std=0.001)
        nn.init.zeros_(self.box_deltas.bias)


@dataclass(frozen=True, kw_only=True)
class RegionPredictions:
    """Predictions for one image by falling score, in the size that the network saw.

    Attributes:
        boxes_xyxy: (N, 4).
        class_probs: (N, num_classes + 1), background last.
        mask_probs: (N, M, M) in [0, 1] over the box.
    """

    boxes_xyxy: Tensor
    class_probs: Tensor
    mask_probs: Tensor


def soft_cross_entropy(logits: Tensor, class_probs: Tensor, weights: Tensor, class_mask: Tensor) -> Tensor:
    """Compute the mean over regions of `weight * -sum_c p_c log softmax(logits)_c`, c over the classes that take part.

    The sum is divided by the number of regions, not by the sum of weights, so a doubtful batch counts less.

    Args:
        logits: (R, num_classes + 1).
        class_probs: (R, num_classes + 1). Rows sum to 1.
        weights: (R,).
        class_mask: (R, num_classes + 1) bool, with at least one class of each row's targets.
    """
    if len(logits) == 0:
        return logits.sum() * 0.0
    logits, class_probs = among_classes(logits.float(), class_probs, class_mask)
    return (F.cross_entropy(logits, class_probs, reduction="none") * weights).mean()


class SoftRoIHeads(RoIHeads):
    """RoIHeads with soft class targets, and with boxes and masks that ignore the class.

    Sampling of regions, box coding and pooling are torchvision's. Losses and post-processing are raylabel's.
    `box_predictor` must be a SoftBoxPredictor, and `mask_predictor` must give one channel.
    """

    def select_training_samples(
        self, proposals: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Sample regions per image: boxes, ground-truth rows, 1 for object or 0 for background, and box targets."""
        labelled = [
            {**target, "labels": torch.ones(len(target["boxes"]), dtype=torch.int64, device=target["boxes"].device)}
            for target in targets
        ]
        return super().select_training_samples(proposals, labelled)

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_sizes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
        terms: frozenset[LossTerm],
    ) -> dict[str, Tensor]:
        """Compute those of the losses `classes`, `boxes` and `masks` that are in `terms`.

        Args:
            features: pyramid maps by level.
            proposals: regions per image.
            image_sizes: height and width of each image in the batch, before padding.
            targets: `boxes`, `masks`, `class_probs`, `weights`, `location_weights` and `class_mask` per image.
            terms: wanted losses.
        """
        losses: dict[str, Tensor] = {}
        if not terms & {"classes", "boxes", "masks"}:
            return losses
        regions, matched_rows, is_object, box_targets = self.select_training_samples(proposals, targets)
        # An object of weight 0 is doubtful, so its place teaches nothing, not even background.
        is_learnt = [
            (objects > 0) & (target["weights"][rows] > 0) if len(target["weights"]) else objects > 0
            for target, rows, objects in zip(targets, matched_rows, is_object, strict=True)
        ]
        if terms & {"classes", "boxes"}:
            box_features = self.box_features(features, regions, image_sizes)
            learnt = torch.cat(is_learnt)
        if "classes" in terms:
            class_targets, weights = self._class_targets(targets, matched_rows, is_object)
            losses["classes"] = soft_cross_entropy(
                self.box_predictor.class_logits(box_features),
                class_targets,
                weights,
                torch.cat(
                    [
                        target["class_mask"].expand(len(rows), -1)
                        for target, rows in zip(targets, matched_rows, strict=True)
                    ]
                ),
            )
        if "boxes" in terms:
            deltas = self.box_predictor.box_deltas(box_features[learnt]).float()
            errors = F.smooth_l1_loss(deltas, torch.cat(box_targets)[learnt], beta=1 / 9, reduction="none").sum(dim=1)
            losses["boxes"] = (errors * _location_weights(targets, matched_rows, is_learnt)).sum() / max(len(learnt), 1)
        if "masks" in terms:
            losses["masks"] = self._mask_loss(features, regions, image_sizes, targets, matched_rows, is_learnt)
        return losses

    @torch.no_grad()
    def detect(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_sizes: list[tuple[int, int]],
        *,
        score_threshold: float,
        max_per_image: int,
    ) -> list[RegionPredictions]:
        """Predict the objects of each image. Masks are computed only for boxes that survive suppression."""
        box_features = self.box_features(features, proposals, image_sizes)
        probs = F.softmax(self.box_predictor.class_logits(box_features).float(), dim=-1)
        boxes = self.box_coder.decode(self.box_predictor.box_deltas(box_features).float(), proposals)[:, 0]
        nums = [len(regions) for regions in proposals]
        found = []
        for image_boxes, image_probs, size in zip(boxes.split(nums), probs.split(nums), image_sizes, strict=True):
            image_boxes = clip_boxes_to_image(image_boxes, size)
            kept = distinct_boxes(image_boxes, image_probs, score_threshold, iou_threshold=self.nms_thresh)
            chosen = kept[:max_per_image]
            found.append((image_boxes[chosen], image_probs[chosen]))
        masks = self._mask_logits(features, [boxes for boxes, _ in found], image_sizes).float().sigmoid()
        return [
            RegionPredictions(boxes_xyxy=boxes, class_probs=probs, mask_probs=image_masks)
            for (boxes, probs), image_masks in zip(found, masks.split([len(boxes) for boxes, _ in found]), strict=True)
        ]

    def box_features(
        self, features: dict[str, Tensor], boxes: list[Tensor], image_sizes: list[tuple[int, int]]
    ) -> Tensor:
        """Compute the box head's features of each image's boxes, (sum of N, D)."""
        return self.box_head(self.box_roi_pool(features, boxes, image_sizes))

    def _class_targets(
        self, targets: list[dict[str, Tensor]], matched_rows: list[Tensor], is_object: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        all_probs, all_weights = [], []
        for target, rows, objects in zip(targets, matched_rows, is_object, strict=True):
            probs = target["class_probs"].new_zeros(len(rows), target["class_probs"].shape[1])
            probs[:, -1] = 1.0
            weights = probs.new_ones(len(rows))
            chosen = torch.where(objects > 0)[0]
            probs[chosen] = target["class_probs"][rows[chosen]]
            weights[chosen] = target["weights"][rows[chosen]]
            all_probs.append(probs)
            all_weights.append(weights)
        return torch.cat(all_probs), torch.cat(all_weights)

    def _mask_logits(
        self, features: dict[str, Tensor], boxes: list[Tensor], image_sizes: list[tuple[int, int]]
    ) -> Tensor:
        """Compute (sum of N, M, M). Without boxes the head is not run, because its norms need values to average."""
        if not any(len(image_boxes) for image_boxes in boxes):
            return boxes[0].new_zeros(0, 1, 1)
        return self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes, image_sizes)))[:, 0]

    def _mask_loss(
        self,
        features: dict[str, Tensor],
        regions: list[Tensor],
        image_sizes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
        matched_rows: list[Tensor],
        is_learnt: list[Tensor],
    ) -> Tensor:
        boxes = [image[learnt] for image, learnt in zip(regions, is_learnt, strict=True)]
        rows = [image[learnt] for image, learnt in zip(matched_rows, is_learnt, strict=True)]
        logits = self._mask_logits(features, boxes, image_sizes).float()
        if len(logits) == 0:
            return next(iter(features.values())).sum() * 0.0
        wanted = [
            project_masks_on_boxes(target["masks"], image_boxes, image_rows, logits.shape[-1])
            for target, image_boxes, image_rows in zip(targets, boxes, rows, strict=True)
            if len(image_boxes)
        ]
        errors = F.binary_cross_entropy_with_logits(logits, torch.cat(wanted), reduction="none").mean(dim=(1, 2))
        return (errors * _location_weights(targets, matched_rows, is_learnt)).mean()


def _location_weights(targets: list[dict[str, Tensor]], matched_rows: list[Tensor], is_learnt: list[Tensor]) -> Tensor:
    """Gather the weight of each learnt region's object over all images, (number of learnt regions,)."""
    return torch.cat(
        [
            target["location_weights"][rows[learnt]]
            for target, rows, learnt in zip(targets, matched_rows, is_learnt, strict=True)
        ]
    )
