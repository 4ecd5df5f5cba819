"""A model family is one file and one entry in `models/build.py`: the worked example of CONTRIBUTING.md."""

import inspect
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raylabel.models.build import BUILDERS, build_segmenter
from raylabel.models.contract import check_segmenter
from raylabel.models.parts.preprocessing import ResizeAndNormalise
from raylabel.models.rcnn.light_heads import assemble_light_maskrcnn, normed_conv
from raylabel.models.rcnn.pyramid import PyramidBackbone
from raylabel.models.rcnn.soft_maskrcnn import SoftMaskRCNN
from raylabel.models.saved import load_segmenter, save_segmenter

GUIDE = Path(__file__).parents[2] / "CONTRIBUTING.md"


class PlainBody(nn.Module):
    """Four convolutions; maps "0" and "1" have strides 8 and 16."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(normed_conv(3, 16, stride=2), normed_conv(16, 32, stride=2))
        self.fine = normed_conv(32, 32, stride=2)
        self.coarse = normed_conv(32, 64, stride=2)

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Compute the maps that the pyramid merges."""
        fine = self.fine(self.stem(images))
        return OrderedDict({"0": fine, "1": self.coarse(fine)})


def build_plain_maskrcnn(*, num_classes: int, min_size: int | None = None) -> SoftMaskRCNN:
    """Build a Mask R-CNN on PlainBody, initialised at random.

    Args:
        num_classes: number of foreground classes.
        min_size: length of the short side that images are resized to; None keeps their size.
    """
    return assemble_light_maskrcnn(
        PyramidBackbone(PlainBody(), (32, 64), 32),
        levels=["0", "1"],
        anchor_sizes={"0": (16, 32), "1": (64, 96)},
        num_proposals=50,
        num_regions=32,
        num_classes=num_classes,
        transform=ResizeAndNormalise(min_size, size_divisible=16),
    )


@pytest.fixture(autouse=True)
def _one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILDERS, "plain_maskrcnn", f"{__name__}:build_plain_maskrcnn")
    torch.manual_seed(0)


def test_the_family_is_a_segmenter() -> None:
    check_segmenter(build_segmenter("plain_maskrcnn", num_classes=5))


def test_the_family_is_saved_and_loaded(tmp_path: Path) -> None:
    segmenter = build_segmenter("plain_maskrcnn", num_classes=5, min_size=64)
    nn.init.ones_(dict(segmenter.named_parameters())["roi_heads.mask_predictor.2.bias"])  # masks are not empty
    save_segmenter(segmenter, str(tmp_path), {"model": "plain_maskrcnn", "min_size": 64})
    loaded, description = load_segmenter(str(tmp_path))
    assert description == {"model": "plain_maskrcnn", "num_classes": 5, "min_size": 64}
    images = [torch.rand(3, 60, 70)]
    [before] = segmenter.predict(images, score_threshold=0.0, max_per_image=5)
    [after] = loaded.predict(images, score_threshold=0.0, max_per_image=5)
    assert len(before) > 0
    assert before.masks == after.masks
    np.testing.assert_array_equal(before.soft_vectors, after.soft_vectors)


def test_the_guide_shows_this_family() -> None:
    if not GUIDE.is_file():
        pytest.skip("needs CONTRIBUTING.md")
    text = GUIDE.read_text()
    assert inspect.getsource(PlainBody) in text
    assert inspect.getsource(build_plain_maskrcnn) in text
