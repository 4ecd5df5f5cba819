"""Mask2Former's loss with soft class targets. Importing it needs transformers.

Mask costs and the sampling of points come from transformers. The class loss and all weights are raylabel's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerHungarianMatcher,
    Mask2FormerLoss,
    pair_wise_dice_loss,
    pair_wise_sigmoid_cross_entropy_loss,
    sample_point,
)

from raylabel.models.parts.class_mask import among_classes
from raylabel.models.parts.map_masks import mask_iou_matrix
from raylabel.models.segmenter import LossTerm

DOUBTFUL_IOU = 0.5
Matches = list[tuple[Tensor, Tensor]]
"""Per image: rows of matched queries, and rows of their objects."""


@dataclass(frozen=True, kw_only=True)
class QueryTargets:
    """Objects of one image in the size of the padded batch.

    Attributes:
        masks: (N, H, W) float32, 0 or 1.
        class_probs: (N, num_classes + 1), background last.
        weights: (N,) weights of the class loss. Objects of weight 0 are doubtful.
        location_weights: (N,) weights of the mask loss.
        class_mask: (num_classes + 1,) bool, classes that take part in the class loss.
    """

    masks: Tensor
    class_probs: Tensor
    weights: Tensor
    location_weights: Tensor
    class_mask: Tensor


class SoftMatcher(Mask2FormerHungarianMatcher):
    """Matcher of queries to objects with the class cost `-sum_c p_c q_c`. For one-hot targets it equals the paper's."""

    @torch.no_grad()
    def match(self, mask_logits: Tensor, class_logits: Tensor, targets: Sequence[QueryTargets]) -> Matches:
        """Find the best pairs of each image.

        Args:
            mask_logits: (B, Q, h, w).
            class_logits: (B, Q, num_classes + 1).
            targets: objects of B images.
        """
        return [
            self._match(masks, logits.softmax(-1), target)
            for masks, logits, target in zip(mask_logits, class_logits, targets, strict=True)
        ]

    def _match(self, mask_logits: Tensor, probs: Tensor, target: QueryTargets) -> tuple[Tensor, Tensor]:
        if len(target.masks) == 0:
            nothing = torch.zeros(0, dtype=torch.int64)
            return nothing, nothing
        points = torch.rand(1, self.num_points, 2, device=mask_logits.device)
        # Masks are channels of one image, because sample_point then reads all masks at the same points.
        predicted = sample_point(mask_logits[None], points, align_corners=False)[0]
        wanted = sample_point(target.masks[None], points, align_corners=False)[0]
        cost = (
            self.cost_mask * pair_wise_sigmoid_cross_entropy_loss(predicted, wanted)
            + self.cost_dice * pair_wise_dice_loss(predicted, wanted)
            - self.cost_class * probs @ target.class_probs.T
        )
        # A cost that is not finite is chosen only as a last resort, because the loss will then report it.
        finite = torch.nan_to_num(cost, nan=1e9, posinf=1e9, neginf=-1e9)
        queries, objects = linear_sum_assignment(finite.cpu().numpy())
        return torch.from_numpy(queries), torch.from_numpy(objects)


class SoftQueryLoss(Mask2FormerLoss):
    """Losses of one decoder layer.

    Args:
        config: transformers' config of Mask2Former or EoMT.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config=config, weight_dict={})
        self.matcher: SoftMatcher = SoftMatcher(
            cost_class=config.class_weight,
            cost_dice=config.dice_weight,
            cost_mask=config.mask_weight,
            num_points=self.num_points,
        )
        self.class_weight, self.mask_weight, self.dice_weight = (
            config.class_weight,
            config.mask_weight,
            config.dice_weight,
        )

    def of_layer(
        self,
        mask_logits: Tensor,
        class_logits: Tensor,
        targets: Sequence[QueryTargets],
        terms: frozenset[LossTerm],
    ) -> dict[str, Tensor]:
        """Compute those of the losses `classes` and `masks` that are in `terms`, times their weights of the config.

        `masks` is the sum of cross-entropy and dice.

        Args:
            mask_logits: (B, Q, h, w).
            class_logits: (B, Q, num_classes + 1).
            targets: objects of B images.
            terms: wanted losses.
        """
        mask_logits, class_logits = mask_logits.float(), class_logits.float()
        matches = self.matcher.match(mask_logits, class_logits, targets)
        losses = {}
        if "classes" in terms:
            losses["classes"] = self.class_weight * self._class_loss(mask_logits, class_logits, targets, matches)
        if "masks" in terms:
            losses["masks"] = self._mask_loss(mask_logits, targets, matches)
        return losses

    def _class_loss(
        self, mask_logits: Tensor, class_logits: Tensor, targets: Sequence[QueryTargets], matches: Matches
    ) -> Tensor:
        """Compute the soft cross-entropy over queries. Background has the weight of "no object".

        Objects' weights are not in the denominator, so a doubtful batch counts less. Queries on doubtful objects are
        neither in the numerator nor in the denominator.
        """
        probs = torch.zeros_like(class_logits)
        probs[..., -1] = 1.0
        weights = torch.ones_like(class_logits[..., 0])
        is_learnt = torch.ones_like(weights, dtype=torch.bool)
        for row, (target, (queries, objects)) in enumerate(zip(targets, matches, strict=True)):
            is_learnt[row] = ~_is_over(mask_logits[row].detach(), target.masks[target.weights == 0])
            probs[row, queries] = target.class_probs[objects]
            weights[row, queries] = target.weights[objects]
            is_learnt[row, queries] = target.weights[objects] > 0
        class_mask = torch.stack([target.class_mask for target in targets])[:, None]
        logits, probs = among_classes(class_logits, probs, class_mask)
        weighted_probs = probs * self.empty_weight
        losses = -(weighted_probs * F.log_softmax(logits, dim=-1)).sum(dim=-1)
        total = (weighted_probs.sum(dim=-1) * is_learnt).sum()
        return (losses * weights * is_learnt).sum() / total.clamp_min(torch.finfo(total.dtype).eps)

    def _mask_loss(self, mask_logits: Tensor, targets: Sequence[QueryTargets], matches: Matches) -> Tensor:
        """Average cross-entropy and dice over pairs, by object weight, at points where masks are uncertain."""
        logits, masks, weights = [], [], []
        for image_logits, target, (queries, objects) in zip(mask_logits, targets, matches, strict=True):
            is_learnt = (target.weights[objects] > 0).cpu()
            logits.append(image_logits[queries[is_learnt]])
            masks.append(target.masks[objects[is_learnt]])
            weights.append(target.location_weights[objects[is_learnt]])
        predicted, wanted, pair_weights = torch.cat(logits)[:, None], torch.cat(masks)[:, None], torch.cat(weights)
        if not len(predicted):
            return mask_logits.sum() * 0.0
        with torch.no_grad():
            ratios: Any = (self.oversample_ratio, self.importance_sample_ratio)
            points = self.sample_points_using_uncertainty(
                predicted, self.calculate_uncertainty, self.num_points, *ratios
            )
            inside = sample_point(wanted, points, align_corners=False)[:, 0]
        at_points = sample_point(predicted, points, align_corners=False)[:, 0]
        cross_entropy = F.binary_cross_entropy_with_logits(at_points, inside, reduction="none").mean(dim=1)
        probs = at_points.sigmoid()
        dice = 1 - (2 * (probs * inside).sum(dim=1) + 1) / (probs.sum(dim=1) + inside.sum(dim=1) + 1)
        return ((self.mask_weight * cross_entropy + self.dice_weight * dice) * pair_weights).mean()


def _is_over(mask_logits: Tensor, doubtful_masks: Tensor) -> Tensor:
    """Tell which queries' masks overlap a doubtful object with an IoU of at least DOUBTFUL_IOU, (Q,) bool."""
    if len(doubtful_masks) == 0:
        return torch.zeros(len(mask_logits), dtype=torch.bool, device=mask_logits.device)
    size = mask_logits.shape[-2:]
    doubtful = F.interpolate(doubtful_masks[None], size=size, mode="area")[0].flatten(1) >= 0.5
    return (mask_iou_matrix(mask_logits.flatten(1) > 0, doubtful) >= DOUBTFUL_IOU).any(dim=1)
