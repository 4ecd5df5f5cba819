"""torchvision's Mask R-CNN on ResNet-50 with a feature pyramid (`maskrcnn_resnet50_fpn_v2`), with soft heads."""

from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

from raylabel.models.soft_maskrcnn import SoftMaskRCNN
from raylabel.models.torchvision_rcnn import soften


def build_resnet50(*, num_classes: int, min_size: int | None = None) -> SoftMaskRCNN:
    """Mask R-CNN of 45 million parameters, initialised at random; nothing is downloaded.

    torchvision's weights files of the model fit, and those of an ImageNet classifier of its body.

    Args:
        num_classes: number of foreground classes.
        min_size: length of the short side that images are resized to; None keeps their size.
    """
    plain = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=2)
    return soften(
        plain,
        num_classes=num_classes,
        min_size=min_size,
        mask_roi_pool=plain.roi_heads.mask_roi_pool,
        mask_head=plain.roi_heads.mask_head,
    )
