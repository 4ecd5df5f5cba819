"""Region proposals whose loss ignores doubtful objects."""

from torch import Tensor
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import box_iou


class SoftRPN(RegionProposalNetwork):
    """torchvision's proposals, except that anchors over objects of weight 0 are neither object nor background."""

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Label each anchor 1 for object, 0 for background or -1 for ignored, and give its box."""
        learnt = [{**target, "boxes": target["boxes"][target["weights"] > 0]} for target in targets]
        labels, matched_boxes = super().assign_targets_to_anchors(anchors, learnt)
        for image_labels, image_anchors, target in zip(labels, anchors, targets, strict=True):
            doubtful = target["boxes"][target["weights"] == 0]
            if len(doubtful):
                is_over = box_iou(doubtful, image_anchors).amax(dim=0) >= self.proposal_matcher.low_threshold
                image_labels[is_over & (image_labels == 0)] = -1.0
        return labels, matched_boxes
