"""A Mask R-CNN of under a million parameters that trains from scratch on a CPU."""

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

from raylabel.models.soft_maskrcnn import ResizeAndNormalise, SoftMaskRCNN
from raylabel.models.soft_roi_heads import SoftBoxPredictor, SoftRoIHeads
from raylabel.models.soft_rpn import SoftRPN

STAGE_CHANNELS = (32, 64, 96)
STAGE_STRIDES = (4, 8, 16)
PYRAMID_CHANNELS = 48
PROPOSAL_LEVELS = ("1", "2")
ANCHOR_SIZES = ((16, 24, 36), (48, 72, 108))
GROUPS = 8


def build_tiny_maskrcnn(*, num_classes: int, min_size: int | None = None) -> SoftMaskRCNN:
    """Tiny Mask R-CNN for images of about 128 to 320 pixels, initialised at random.

    Group normalisation, as batches are small and start from nothing.

    Args:
        num_classes: number of foreground classes.
        min_size: length of the short side that images are resized to; None keeps their size.
    """
    backbone = TinyBackbone()
    levels = [str(level) for level in range(len(STAGE_CHANNELS))]
    anchors = AnchorGenerator(ANCHOR_SIZES, ((0.5, 1.0, 2.0),) * len(ANCHOR_SIZES))
    rpn = CoarseProposalNetwork(
        anchors,
        RPNHead(PYRAMID_CHANNELS, anchors.num_anchors_per_location()[0]),
        fg_iou_thresh=0.6,
        bg_iou_thresh=0.3,
        batch_size_per_image=64,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 200, "testing": 200},
        post_nms_top_n={"training": 100, "testing": 100},
        nms_thresh=0.7,
    )
    roi_heads = SoftRoIHeads(
        box_roi_pool=MultiScaleRoIAlign(levels, output_size=7, sampling_ratio=1),
        box_head=nn.Sequential(
            nn.Flatten(), nn.Linear(PYRAMID_CHANNELS * 49, 160), nn.ReLU(), nn.Linear(160, 128), nn.ReLU()
        ),
        box_predictor=SoftBoxPredictor(128, num_classes),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=32,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=100,
        mask_roi_pool=MultiScaleRoIAlign(levels, output_size=10, sampling_ratio=1),
        mask_head=nn.Sequential(_conv(PYRAMID_CHANNELS, 32), _conv(32, 32)),
        mask_predictor=nn.Sequential(nn.ConvTranspose2d(32, 32, 2, stride=2), nn.ReLU(), nn.Conv2d(32, 1, 1)),
    )
    return SoftMaskRCNN(
        num_classes=num_classes,
        transform=ResizeAndNormalise(min_size, size_divisible=STAGE_STRIDES[-1]),
        backbone=backbone,
        rpn=rpn,
        roi_heads=roi_heads,
    )


class CoarseProposalNetwork(SoftRPN):
    """Proposals from strides 8 and 16 alone: stride 4 would take most of the time and find hardly more."""

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """As of RegionProposalNetwork."""
        return super().forward(images, {level: features[level] for level in PROPOSAL_LEVELS}, targets)


class TinyBackbone(nn.Module):
    """Residual stages at strides 4, 8 and 16 under a feature pyramid."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 24, stride=2)
        channels = (24, *STAGE_CHANNELS)
        self.stages = nn.ModuleList(
            ResidualBlock(before, after) for before, after in zip(channels, STAGE_CHANNELS, strict=False)
        )
        self.pyramid = FeaturePyramidNetwork(list(STAGE_CHANNELS), PYRAMID_CHANNELS)
        self.out_channels = PYRAMID_CHANNELS

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps "0", "1" and "2" at strides 4, 8 and 16."""
        features = self.stem(images)
        maps = OrderedDict()
        for level, stage in enumerate(self.stages):
            features = stage(features)
            maps[str(level)] = features
        return self.pyramid(maps)


class ResidualBlock(nn.Module):
    """A convolution that halves the map, and a residual pair of them."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.down = _conv(before, after, stride=2)
        self.residual = nn.Sequential(
            _conv(after, after), nn.Conv2d(after, after, 3, padding=1, bias=False), nn.GroupNorm(GROUPS, after)
        )

    def forward(self, features: Tensor) -> Tensor:
        """A map of half the side."""
        features = self.down(features)
        return (features + self.residual(features)).relu()


def _conv(before: int, after: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False), nn.GroupNorm(GROUPS, after), nn.ReLU()
    )
