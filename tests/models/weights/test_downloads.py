"""Named weights come from their packages; without a network one line names the remedy."""

import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torchvision.models.detection import maskrcnn_resnet50_fpn

from raylabel.config import has_weights_name
from raylabel.errors import InputError
from raylabel.models.build import build_segmenter
from raylabel.models.weights.downloads import download_weights
from raylabel.models.weights.loading import load_weights, weights_identity

NAMED = "torchvision:MaskRCNN_ResNet50_FPN_Weights.COCO_V1"


@pytest.fixture
def without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Empty torch's cache and refuse every download."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr("torch.hub.urlopen", refuse)


@pytest.mark.usefixtures("without_network")
def test_without_a_network_the_remedy_is_said() -> None:
    with pytest.raises(
        InputError, match=r"can't be downloaded \(.*no route.*\)\. Download https://.*\.pth on .*, and set weights"
    ):
        build_segmenter("tiny_maskrcnn", num_classes=2, weights=NAMED)


def test_without_a_network_the_hub_is_refused_in_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra transformers")

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise OSError("We couldn't connect\nto the hub")

    monkeypatch.setattr(transformers.utils, "cached_file", refuse)
    with pytest.raises(InputError, match=r"transformers:a/b: can't be downloaded \(We couldn't connect to the hub\)\."):
        download_weights("transformers", "a/b")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match=r"torchvision:Nothing.COCO: no such weights\. Use a name"):
        download_weights("torchvision", "Nothing.COCO")


def test_torchvisions_weights_fit_but_for_the_class_and_box_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A local state dict stands for torchvision's download."""
    torch.manual_seed(0)
    theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()

    def load(url: str, **options: Any) -> dict[str, Any]:
        assert options["weights_only"], "no object may be unpickled"
        return dict(theirs)

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", load)
    model = build_segmenter("maskrcnn_resnet50_fpn", num_classes=4)
    report = load_weights(model, NAMED)
    assert {".".join(name.split(".")[:2]) for name in report.left_at_init} == {
        "roi_heads.box_predictor",
        "roi_heads.mask_predictor",
    }
    name = "backbone.body.layer4.2.bn3.running_var"
    torch.testing.assert_close(model.state_dict()[name], theirs[name])


def test_names_stand_for_themselves_and_files_for_their_content(tmp_path: Path) -> None:
    assert weights_identity(NAMED) == NAMED
    path = tmp_path / "weights.pth"
    path.write_bytes(b"1")
    first = weights_identity(str(path))
    path.write_bytes(b"2")
    assert weights_identity(str(path)) != first
    assert has_weights_name("imagenet")
    assert not has_weights_name("weights/imagenet.pth")
