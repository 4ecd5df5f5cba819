"""torchvision's Mask R-CNNs on ResNet-50 with a feature pyramid and soft heads."""

from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from raylabel.models.rcnn.from_torchvision import soften
from raylabel.models.rcnn.soft_maskrcnn import SoftMaskRCNN

NUM_TRAINED_STAGES = 3
"""Trained stages of the five of `maskrcnn_resnet50_fpn`, as in torchvision's fine-tuning."""


def build_resnet50(*, num_classes: int, min_size: int | None = None) -> SoftMaskRCNN:
    """Build `maskrcnn_resnet50_fpn`: 44 million parameters, initialised at random.

    Use it for fine-tuning: batch norms, the stem and the first stage keep the loaded weights. Weights of torchvision's
    model fit, and so do those of a ResNet-50 ImageNet classifier.

    Args:
        num_classes: number of foreground classes.
        min_size: length of the short side that images are resized to; None keeps their size.
    """
    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=NUM_TRAINED_STAGES)
    return _soften(MaskRCNN(backbone, num_classes=2), num_classes=num_classes, min_size=min_size)


def build_resnet50_v2(*, num_classes: int, min_size: int | None = None) -> SoftMaskRCNN:
    """Build `maskrcnn_resnet50_fpn_v2`: 45 million parameters, initialised at random.

    Batch norms learn, so it can be trained from nothing if batches are large enough.

    Args:
        num_classes: number of foreground classes.
        min_size: length of the short side that images are resized to; None keeps their size.
    """
    plain = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=2)
    return _soften(plain, num_classes=num_classes, min_size=min_size)


def _soften(plain: MaskRCNN, *, num_classes: int, min_size: int | None) -> SoftMaskRCNN:
    return soften(
        plain,
        num_classes=num_classes,
        min_size=min_size,
        mask_roi_pool=plain.roi_heads.mask_roi_pool,
        mask_head=plain.roi_heads.mask_head,
    )
