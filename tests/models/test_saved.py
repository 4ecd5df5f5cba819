"""Saved models and local weights: round trips and unsuitable files."""

import json
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import mobilenet_v3_large
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_fpn

from one_line import value_or_line
from raylabel.errors import InputError
from raylabel.models.build import build_segmenter
from raylabel.models.saved import load_segmenter, save_segmenter
from raylabel.models.weights.loading import load_weights
from raylabel.run.folder import RunFolder
from raylabel.run.models import num_model_classes


def test_a_saved_model_predicts_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    segmenter = build_segmenter("tiny_maskrcnn", num_classes=4, min_size=48)
    torch.nn.init.ones_(dict(segmenter.named_parameters())["roi_heads.mask_predictor.2.bias"])  # masks are not empty
    save_segmenter(segmenter, str(tmp_path / "teacher"), {"model": "tiny_maskrcnn", "min_size": 48, "note": "x"})
    loaded, description = load_segmenter(str(tmp_path / "teacher"))
    assert description == {"model": "tiny_maskrcnn", "num_classes": 4, "min_size": 48, "note": "x"}
    assert not loaded.training
    images = [torch.rand(3, 60, 70)]
    [before] = segmenter.predict(images, score_threshold=0.0, max_per_image=5)
    [after] = loaded.predict(images, score_threshold=0.0, max_per_image=5)
    assert len(before) > 0
    assert before.masks == after.masks
    np.testing.assert_array_equal(before.soft_vectors, after.soft_vectors)


def test_damaged_saved_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.json: no such file"):
        load_segmenter(str(tmp_path / "nothing"))
    folder = tmp_path / "teacher"
    save_segmenter(build_segmenter("tiny_maskrcnn", num_classes=4), str(folder), {"model": "tiny_maskrcnn"})
    description = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**description, "num_classes": 5}))
    with pytest.raises(InputError, match=r"model\.safetensors: doesn't fit"):
        load_segmenter(str(folder))
    (folder / "model.json").write_text(json.dumps(description))
    (folder / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(InputError, match=r"model\.safetensors: doesn't fit"):
        load_segmenter(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors: no such file"):
        load_segmenter(str(folder))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", None), ("model", 3), ("num_classes", None), ("num_classes", "4"), ("num_classes", -1),
        ("num_classes", 4.0), ("num_classes", 10**9), ("min_size", 0), ("min_size", "x"), ("min_size", []),
        ("model_options", 1), ("model_options", True), ("model_options", "x"),
    ],
)  # fmt: skip
def test_a_damaged_description_is_one_line(key: str, value: Any, tmp_path: Path) -> None:
    """For the reader without torch too, which a hundred million classes would leave without memory."""
    save_segmenter(build_segmenter("tiny_maskrcnn", num_classes=4), str(tmp_path), {"model": "tiny_maskrcnn"})
    description = json.loads((tmp_path / "model.json").read_text())
    for content in (description | {key: value}, {}):
        (tmp_path / "model.json").write_text(json.dumps(content))
        for read in (load_segmenter, lambda folder: num_model_classes(RunFolder(folder), "")):
            assert value_or_line(partial(read, str(tmp_path)))[1].startswith(f"{tmp_path}/model.json: ")


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_weights_of_other_classes_leave_the_class_layer_at_random(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, path = build_segmenter("tiny_maskrcnn", num_classes=4), tmp_path / name
    tensors = {**source.state_dict(), "spare.weight": torch.zeros(3)}
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save({"model": tensors}, path)
    model = build_segmenter("tiny_maskrcnn", num_classes=7)
    report = load_weights(model, path)
    assert report.left_at_init == (
        "roi_heads.box_predictor.class_logits.weight",
        "roi_heads.box_predictor.class_logits.bias",
    )
    assert "spare.weight" in report.unused
    for key in report.loaded:
        torch.testing.assert_close(model.state_dict()[key], source.state_dict()[key])


def test_a_backbones_own_file_is_found_its_place(tmp_path: Path) -> None:
    source = build_segmenter("tiny_maskrcnn", num_classes=4)
    path = tmp_path / "backbone.safetensors"
    below = {key.removeprefix("backbone."): value for key, value in source.state_dict().items() if "backbone." in key}
    save_file(below, path)
    model = build_segmenter("tiny_maskrcnn", num_classes=4, weights=str(path))
    for key, value in below.items():
        torch.testing.assert_close(model.state_dict()[f"backbone.{key}"], value)


def test_torchvisions_files_fit_the_mobilenet(tmp_path: Path) -> None:
    """The detector's file fits, and so does the ImageNet classifier's, whose names differ."""
    path = tmp_path / "weights.safetensors"
    detector = fasterrcnn_mobilenet_v3_large_fpn(weights=None, weights_backbone=None)
    save_file(detector.state_dict(), path)
    model = build_segmenter("maskrcnn_mobilenet_v3_large_fpn", num_classes=4)
    report = load_weights(model, path)
    assert {name.split(".")[1] for name in report.unused} == {"box_predictor"}
    assert {".".join(name.split(".")[:2]) for name in report.left_at_init} == {
        "roi_heads.box_predictor",
        "roi_heads.mask_head",
        "roi_heads.mask_predictor",
    }
    classifier = mobilenet_v3_large().state_dict()
    save_file(classifier, path)
    assert {name.split(".")[0] for name in load_weights(model, path).unused} == {"classifier"}
    first = classifier["features.0.0.weight"]
    torch.testing.assert_close(model.state_dict()["backbone.body.0.0.weight"], first)


def test_weights_that_cannot_serve_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such weights file"):
        build_segmenter("tiny_maskrcnn", num_classes=4, weights=str(tmp_path / "none.pth"))
    save_file({"other.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="no weight fits SoftMaskRCNN"):
        build_segmenter("tiny_maskrcnn", num_classes=4, weights=str(tmp_path / "other.safetensors"))
    for name in ("broken.safetensors", "broken.pth"):
        (tmp_path / name).write_bytes(b"no")
        with pytest.raises(InputError, match="not a weights file"):
            build_segmenter("tiny_maskrcnn", num_classes=4, weights=str(tmp_path / name))


def test_a_class_is_imported_only_if_the_config_names_it(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps({"model": "antigravity_of_tests:Model", "num_classes": 4}))
    with pytest.raises(InputError, match=r"model\.json: the model 'antigravity_of_tests:Model' is imported only if"):
        load_segmenter(str(tmp_path))
    with pytest.raises(InputError, match="no module antigravity_of_tests"):
        load_segmenter(str(tmp_path), ["antigravity_of_tests:Model"])
    for content in ([], {"model": ["a:B"], "num_classes": 4}, {"model": "a:B", "num_classes": "4"}):
        (tmp_path / "model.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match=r"model\.json: (must be a JSON object|model: |num_classes: )"):
            load_segmenter(str(tmp_path))


class Bomb:
    """An object that runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", ["bomb.pt", "bomb.pth", "bomb.bin", "bomb.safetensors"])
@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_bomb_is_refused_in_one_line(tmp_path: Path, name: str, is_zip: bool) -> None:
    went_off = tmp_path / "went off"
    state = {"model": {"a": torch.zeros(1), "b": Bomb(went_off)}}
    torch.save(state, tmp_path / name, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(InputError, match=f"{name}: not a weights file") as caught:
        build_segmenter("tiny_maskrcnn", num_classes=4, weights=str(tmp_path / name))
    assert "\n" not in str(caught.value)
    (tmp_path / name).write_bytes(pickle.dumps(state))
    with pytest.raises(InputError, match=f"{name}: not a weights file"):
        build_segmenter("tiny_maskrcnn", num_classes=4, weights=str(tmp_path / name))
    assert not went_off.exists()


def test_pickled_objects_are_not_loaded(tmp_path: Path) -> None:
    torch.save({"model": Path("x")}, tmp_path / "objects.pth")
    with pytest.raises(InputError, match="not a weights file"):
        build_segmenter("tiny_maskrcnn", num_classes=4, weights=str(tmp_path / "objects.pth"))
