"""ONNX graphs for tests: a toy made of a few tensors, and an exported Mask R-CNN."""

import json
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from raylabel.models.rcnn.soft_maskrcnn import SoftMaskRCNN


class ToyDetector(nn.Module):
    """A detector of four boxes at fixed places, whose classes depend on the image's colour."""

    def __init__(self, num_classes: int, *, has_image_masks: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shares = torch.tensor([[0.0, 0, 0.5, 0.5], [0, 0, 0.55, 0.5], [0.5, 0.5, 1, 1], [0.25, 0.5, 0.5, 0.9]])
        self.classes = nn.Linear(3, 4 * (num_classes + 1))
        self.has_image_masks = has_image_masks
        self.box_masks = torch.randn(4, 8, 8) + 2
        self.image_masks = torch.randn(4, 8, 8)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        size = torch._shape_as_tensor(images)[[3, 2, 3, 2]].float()
        probs = (self.classes(images.mean(dim=(2, 3))) * 10).reshape(4, -1).softmax(1)
        if self.has_image_masks:
            return probs, self.image_masks + images.mean() * 0
        return self.shares * size, probs, self.box_masks.sigmoid() + images.mean() * 0


class OneImage(nn.Module):
    """A Mask R-CNN that takes one image and returns tensors, as a graph must."""

    def __init__(self, segmenter: SoftMaskRCNN) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        batch, features = self.segmenter._features([images[0]])
        proposals, _ = self.segmenter.rpn(batch, features)
        [found] = self.segmenter.roi_heads.detect(
            features, proposals, batch.image_sizes, score_threshold=0.0, max_per_image=50
        )
        return found.boxes_xyxy, found.class_probs, found.mask_probs


def export_toy(path: Path, num_classes: int, *, has_image_masks: bool = False) -> None:
    """Write a toy graph that takes images of any size."""
    names = ["class_probs", "image_mask_logits"] if has_image_masks else ["boxes_xyxy", "class_probs", "box_mask_probs"]
    export(ToyDetector(num_classes, has_image_masks=has_image_masks), path, (64, 64), names, {2: "h", 3: "w"})


def export_maskrcnn(segmenter: SoftMaskRCNN, path: Path, size_hw: tuple[int, int]) -> None:
    """Write the graph of a Mask R-CNN for images of one size."""
    export(OneImage(segmenter), path, size_hw, ["boxes_xyxy", "class_probs", "box_mask_probs"], {})


def export(
    module: nn.Module, path: Path, size_hw: tuple[int, int], names: list[str], input_axes: dict[int, str]
) -> None:
    """Write the graph of a module with one input."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.rand(1, 3, *size_hw),),
            path,
            input_names=["images"],
            output_names=names,
            dynamic_axes={"images": input_axes, **{name: {0: "objects"} for name in names}},
            dynamo=False,
        )


def name_classes(path: Path, names: list[str]) -> None:
    """Write class names into a graph's metadata."""
    import onnx

    graph = onnx.load(str(path))
    graph.metadata_props.add(key="class_names", value=json.dumps(names))
    onnx.save(graph, str(path))
