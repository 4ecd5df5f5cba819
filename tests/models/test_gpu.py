"""Models on a CUDA device with automatic mixed precision."""

import pytest
import torch

from raylabel.models.build import build_segmenter
from raylabel.models.segmenter import LOSS_TERMS, Target

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


PACKAGE_OF = {
    "maskrcnn_efficientnet_lite0": "efficientnet_lite_pytorch",
    "mask2former_tiny": "transformers",
    "eomt_tiny": "transformers",
}


@pytest.mark.parametrize(
    "model", ["tiny_maskrcnn", "maskrcnn_mobilenet_v3_large_fpn", "maskrcnn_resnet50_fpn_v2", *PACKAGE_OF]
)
def test_losses_and_predictions_on_cuda(model: str) -> None:
    if model in PACKAGE_OF:
        pytest.importorskip(PACKAGE_OF[model])
    torch.manual_seed(0)
    segmenter = build_segmenter(model, num_classes=3).to("cuda")
    images = [torch.rand(3, 128, 128, device="cuda") for _ in range(2)]
    masks = torch.zeros(1, 128, 128, dtype=torch.bool)
    masks[0, 20:60, 30:90] = True
    target = Target(
        boxes_xyxy=torch.tensor([[30.0, 20, 90, 60]]),
        masks_NHW=masks,
        class_probs=torch.tensor([[0.7, 0.2, 0.1, 0.0]]),
        weights=torch.ones(1),
    ).to("cuda")
    with torch.autocast("cuda"):
        losses = segmenter.losses(images, [target, target])
    assert set(losses) == LOSS_TERMS
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())
    with torch.inference_mode(), torch.autocast("cuda"):
        found = segmenter.predict(images, score_threshold=0.0, max_per_image=5)
    assert [one.image_size_hw for one in found] == [(128, 128), (128, 128)]
    assert segmenter.embed(images, [target, target]).shape[0] == 2
