"""From torchvision's R-CNNs to soft ones: torchvision's parts and names, with soft class and box layers."""

from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from raylabel.models.parts.preprocessing import ResizeAndNormalise
from raylabel.models.rcnn.soft_maskrcnn import SoftMaskRCNN
from raylabel.models.rcnn.soft_roi_heads import SoftBoxPredictor, SoftRoIHeads
from raylabel.models.rcnn.soft_rpn import SoftRPN

PYRAMID_STRIDE = 32
BOX_FEATURES = 1024
MASK_CHANNELS = 256


def soften(
    plain: FasterRCNN,
    *,
    num_classes: int,
    min_size: int | None,
    mask_roi_pool: MultiScaleRoIAlign,
    mask_head: nn.Module,
) -> SoftMaskRCNN:
    """Build a soft Mask R-CNN from the parts and settings of a torchvision model.

    Parameters keep torchvision's names, so its weights files fit. The class and box layers are the exception.

    Args:
        plain: model that gives the backbone, the region proposals and the box head.
        num_classes: number of foreground classes.
        min_size: length of the short side that images are resized to; None keeps their size.
        mask_roi_pool: pooling for the mask head.
        mask_head: mask head that ends in MASK_CHANNELS maps.
    """
    return SoftMaskRCNN(
        num_classes=num_classes,
        transform=ResizeAndNormalise(min_size, size_divisible=PYRAMID_STRIDE),
        backbone=plain.backbone,
        rpn=SoftRPN(
            plain.rpn.anchor_generator,
            plain.rpn.head,
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 2000, "testing": 1000},
            post_nms_top_n={"training": 2000, "testing": 1000},
            nms_thresh=0.7,
        ),
        roi_heads=SoftRoIHeads(
            box_roi_pool=plain.roi_heads.box_roi_pool,
            box_head=plain.roi_heads.box_head,
            box_predictor=SoftBoxPredictor(BOX_FEATURES, num_classes),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=512,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=0.05,
            nms_thresh=0.5,
            detections_per_img=100,
            mask_roi_pool=mask_roi_pool,
            mask_head=mask_head,
            mask_predictor=MaskRCNNPredictor(MASK_CHANNELS, MASK_CHANNELS, 1),
        ),
    )
