"""torchvision's Mask R-CNNs on ResNet-50 with a feature pyramid and soft heads."""

from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from raylabel.models.rcnn.from_torchvision import soften
from raylabel.models.rcnn.frozen_stages import check_frozen_stages
from raylabel.models.rcnn.soft_maskrcnn import SoftMaskRCNN

NUM_STAGES = 4
"""Stages of a ResNet behind its stem."""
FROZEN_STAGES = 1
"""Frozen stages of `maskrcnn_resnet50_fpn`, as in torchvision's fine-tuning."""


def build_resnet50(
    *, num_classes: int, min_size: int | None = None, frozen_stages: int = FROZEN_STAGES
) -> SoftMaskRCNN:
    """Build `maskrcnn_resnet50_fpn`: 44 million parameters, initialised at random.

    Use it for fine-tuning: batch norms, the stem and the first stage keep the loaded weights. Weights of torchvision's
    model fit, and so do those of a ResNet-50 ImageNet classifier.

    Args:
        num_classes: number of foreground classes.
        min_size: length of the short side that images are resized to; None keeps their size.
        frozen_stages: stages of the body behind its stem that keep their weights, from 0 to 4; the stem keeps its
            weights too. -1 trains all. Batch norms stay frozen.

    Raises:
        InputError: `frozen_stages` is out of its range.
    """
    # torchvision counts the stem as a stage, and the trained ones.
    num_trained = NUM_STAGES - check_frozen_stages(frozen_stages, num_stages=NUM_STAGES)
    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=num_trained)
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
