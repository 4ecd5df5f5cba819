"""A Mask R-CNN on MobileNetV3-Large with a feature pyramid, with soft heads: the one that CPUs label with."""

from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_fpn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.ops import MultiScaleRoIAlign

from raylabel.models.rcnn.from_torchvision import MASK_CHANNELS, soften
from raylabel.models.rcnn.soft_maskrcnn import SoftMaskRCNN

LEVELS = ("0", "1")
"""Maps of the pyramid that boxes and masks are read from, both at stride 32; the third serves proposals alone."""


def build_mobilenet(*, num_classes: int, min_size: int | None = None) -> SoftMaskRCNN:
    """Mask R-CNN of 21 million parameters, most of them in the box head, initialised at random; nothing is downloaded.

    torchvision has this body with boxes only (`fasterrcnn_mobilenet_v3_large_fpn`), whose weights file fits, as that of
    an ImageNet classifier does; the mask head is that of torchvision's Mask R-CNN.

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
