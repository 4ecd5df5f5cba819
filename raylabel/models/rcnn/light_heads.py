"""Region proposals, a box head and a mask head that are light enough to train on a CPU."""

from collections.abc import Mapping

from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RPNHead

from raylabel.models.parts.preprocessing import ResizeAndNormalise
from raylabel.models.rcnn.light_roi_ops import DoublingMaskPredictor, TableRoIAlign
from raylabel.models.rcnn.pyramid import PyramidBackbone
from raylabel.models.rcnn.soft_maskrcnn import SoftMaskRCNN
from raylabel.models.rcnn.soft_roi_heads import SoftBoxPredictor, SoftRoIHeads
from raylabel.models.rcnn.soft_rpn import SoftRPN

ASPECT_RATIOS = (0.5, 1.0, 2.0)
MASK_CHANNELS = 32
GROUPS = 8


def assemble_light_maskrcnn(
    backbone: PyramidBackbone,
    *,
    levels: list[str],
    anchor_sizes: Mapping[str, tuple[int, ...]],
    num_proposals: int,
    num_regions: int,
    num_classes: int,
    transform: ResizeAndNormalise,
) -> SoftMaskRCNN:
    """Build a soft Mask R-CNN from a pyramid and light heads that are initialised at random.

    Args:
        backbone: image batch -> pyramid of maps by level.
        levels: levels that the box and mask heads read.
        anchor_sizes: level that gives proposals -> sides of its anchors in pixels. Leave out fine levels: they would
            take most of the time and find hardly more.
        num_proposals: proposals per image after suppression.
        num_regions: regions sampled per image for the losses of the heads.
        num_classes: number of foreground classes.
        transform: resizing and normalisation.
    """
    channels = backbone.out_channels
    anchors = AnchorGenerator(tuple(anchor_sizes.values()), (ASPECT_RATIOS,) * len(anchor_sizes))
    rpn = LevelledProposals(
        anchors,
        RPNHead(channels, anchors.num_anchors_per_location()[0]),
        fg_iou_thresh=0.6,
        bg_iou_thresh=0.3,
        batch_size_per_image=64,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 2 * num_proposals, "testing": 2 * num_proposals},
        post_nms_top_n={"training": num_proposals, "testing": num_proposals},
        nms_thresh=0.7,
    )
    rpn.levels = tuple(anchor_sizes)
    roi_heads = SoftRoIHeads(
        box_roi_pool=TableRoIAlign(levels, 7),
        box_head=nn.Sequential(nn.Flatten(), nn.Linear(channels * 49, 160), nn.ReLU(), nn.Linear(160, 128), nn.ReLU()),
        box_predictor=SoftBoxPredictor(128, num_classes),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=num_regions,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=100,
        mask_roi_pool=TableRoIAlign(levels, 10),
        mask_head=nn.Sequential(normed_conv(channels, MASK_CHANNELS), normed_conv(MASK_CHANNELS, MASK_CHANNELS)),
        mask_predictor=DoublingMaskPredictor(MASK_CHANNELS),
    )
    return SoftMaskRCNN(num_classes=num_classes, transform=transform, backbone=backbone, rpn=rpn, roi_heads=roi_heads)


class LevelledProposals(SoftRPN):
    """Proposals from some levels of the pyramid.

    Attributes:
        levels: names of these levels.
    """

    levels: tuple[str, ...]

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """See RegionProposalNetwork."""
        return super().forward(images, {level: features[level] for level in self.levels}, targets)


def normed_conv(before: int, after: int, *, stride: int = 1) -> nn.Sequential:
    """Make a 3 x 3 convolution with group normalisation, because batches are small and training starts from nothing."""
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False), nn.GroupNorm(GROUPS, after), nn.ReLU()
    )
