"""A Mask R-CNN on MobileNetV3-Large with a feature pyramid and soft heads, for labelling on CPUs."""

from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_fpn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.ops import MultiScaleRoIAlign

from raylabel.models.rcnn.from_torchvision import MASK_CHANNELS, soften
from raylabel.models.rcnn.soft_maskrcnn import SoftMaskRCNN

LEVELS = ("0", "1")
"""Pyramid maps that the heads read, both at stride 32. The third map serves only the proposals."""


def build_mobilenet(*, num_classes: int, min_size: int | None = None) -> SoftMaskRCNN:
    """Build a Mask R-CNN of 21 million parameters, initialised at random. Nothing is downloaded.

    Most parameters are in the box head. torchvision has this body with boxes only
    (`fasterrcnn_mobilenet_v3_large_fpn`). That model's weights file fits, and so does an ImageNet classifier's. The
    mask head is that of torchvision's Mask R-CNN.

    Args:
        num_classes: number of foreground classes.
        min_size: length of the short side that images are resized to; None keeps their size.
    """
    plain = fasterrcnn_mobilenet_v3_large_fpn(weights=None, weights_backbone=None, num_classes=2)
    return soften(
        plain,
        num_classes=num_classes,
        min_size=min_size,
        mask_roi_pool=MultiScaleRoIAlign(LEVELS, output_size=14, sampling_ratio=2),
        mask_head=MaskRCNNHeads(plain.backbone.out_channels, (MASK_CHANNELS,) * 4, 1),
    )
