"""ONNX graphs predict what torch models predict, are saved as models, and are refused if they break the contract."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnx", reason="needs onnx to make graphs")

from onnx_graphs import ToyDetector, export, export_maskrcnn, export_toy, name_classes
from raylabel.errors import InputError
from raylabel.models.build import build_segmenter
from raylabel.models.onnx_segmenter import OnnxSegmenter
from raylabel.models.rcnn.soft_maskrcnn import SoftMaskRCNN
from raylabel.models.saved import load_segmenter, save_segmenter
from raylabel.models.segmenter import Target
from raylabel.models.weights.loading import load_weights


def build(path: Path, num_classes: int, min_size: int | None = None) -> OnnxSegmenter:
    segmenter = build_segmenter("onnx", num_classes=num_classes, weights=str(path), min_size=min_size)
    assert isinstance(segmenter, OnnxSegmenter)
    return segmenter


def test_a_graph_says_what_the_torch_model_says(tmp_path: Path) -> None:
    """An exported tiny Mask R-CNN gives the same boxes, soft vectors, masks and mask qualities."""
    torch.manual_seed(0)
    segmenter = build_segmenter("tiny_maskrcnn", num_classes=3)
    assert isinstance(segmenter, SoftMaskRCNN)
    torch.nn.init.ones_(dict(segmenter.named_parameters())["roi_heads.mask_predictor.2.bias"])  # masks are not empty
    path = tmp_path / "model.onnx"
    export_maskrcnn(segmenter, path, (64, 80))
    images = [torch.rand(3, 64, 80), torch.rand(3, 64, 80)]
    wanted = segmenter.predict(images, score_threshold=0.0, max_per_image=10)
    found = build(path, 3).predict(images, score_threshold=0.0, max_per_image=10)
    for ours, theirs in zip(found, wanted, strict=True):
        assert len(theirs) > 2
        np.testing.assert_allclose(ours.soft_vectors, theirs.soft_vectors, atol=1e-5)
        np.testing.assert_allclose(ours.boxes_xyxy, theirs.boxes_xyxy, atol=1e-3)
        np.testing.assert_allclose(ours.mask_quality, theirs.mask_quality, atol=1e-3)
        assert np.mean([one == other for one, other in zip(ours.masks, theirs.masks, strict=True)]) > 0.8


def test_a_saved_graph_predicts_the_same(tmp_path: Path) -> None:
    export_toy(tmp_path / "toy.onnx", 4)
    segmenter = build(tmp_path / "toy.onnx", 4)
    save_segmenter(segmenter, str(tmp_path / "teacher"), {"model": "onnx"})
    loaded, _ = load_segmenter(str(tmp_path / "teacher"))
    images = [torch.rand(3, 40, 60)]
    [before] = segmenter.predict(images, score_threshold=0.0, max_per_image=5)
    [after] = loaded.predict(images, score_threshold=0.0, max_per_image=5)
    assert len(before) == 3  # two of the four boxes are nearly the same
    assert before.masks == after.masks
    np.testing.assert_array_equal(before.soft_vectors, after.soft_vectors)
    again = build_segmenter("onnx", num_classes=4, weights=str(tmp_path / "teacher"))
    assert again.predict(images, score_threshold=0.0, max_per_image=5)[0].masks == before.masks


def test_boxes_come_back_in_the_images_own_size(tmp_path: Path) -> None:
    export_toy(tmp_path / "toy.onnx", 4)
    [found] = build(tmp_path / "toy.onnx", 4, min_size=80).predict(
        [torch.rand(3, 40, 60)], score_threshold=0.0, max_per_image=5
    )
    corners = {tuple(box) for box in found.boxes_xyxy.round(3).tolist()}
    assert (30.0, 20.0, 60.0, 40.0) in corners


def test_masks_over_the_whole_image(tmp_path: Path) -> None:
    export_toy(tmp_path / "toy.onnx", 4, has_image_masks=True)
    image = torch.rand(3, 32, 48)
    [found] = build(tmp_path / "toy.onnx", 4).predict([image], score_threshold=0.0, max_per_image=5)
    probs, masks = ToyDetector(4, has_image_masks=True).eval()(image[None])
    whole = torch.nn.functional.interpolate(masks[None], size=(32, 48), mode="bilinear", align_corners=False)[0] > 0
    best = probs[:, :-1].amax(dim=1).argmax()
    assert found.mask_areas[0] == whole[best].sum()


def test_it_is_neither_trained_nor_asked_for_embeddings(tmp_path: Path) -> None:
    export_toy(tmp_path / "toy.onnx", 4)
    segmenter = build(tmp_path / "toy.onnx", 4)
    with pytest.raises(InputError, match=r"model onnx only predicts\. It can be a teacher with teacher.steps: 0"):
        segmenter.losses([torch.rand(3, 8, 8)], [Target.empty((8, 8), 4)])
    with pytest.raises(InputError, match=r"no embeddings\. Set smoothing.embedder"):
        segmenter.embed([torch.rand(3, 8, 8)], [Target.empty((8, 8), 4)])


def test_what_is_not_by_the_contract_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "toy.onnx"
    with pytest.raises(InputError, match="no such weights file"):
        build(path, 4)
    path.write_bytes(b"no graph")
    with pytest.raises(InputError, match="model onnx: onnxruntime can't open the graph"):
        build(path, 4)
    export_toy(path, 4)
    with pytest.raises(InputError, match="the graph has 4 classes, the labelled set 7"):
        build(path, 7)
    with pytest.raises(InputError, match="no weight fits"):
        load_weights(build_segmenter("tiny_maskrcnn", num_classes=4), path)
    name_classes(path, ["a", "b", "c", "d"])
    assert build(path, 4).class_names == ("a", "b", "c", "d")
    export(ToyDetector(4, has_image_masks=False), path, (8, 8), ["boxes", "class_probs", "box_mask_probs"], {})
    with pytest.raises(InputError, match="must have the outputs boxes_xyxy, class_probs and box_mask_probs"):
        build(path, 4)
    with pytest.raises(InputError, match=r"model onnx needs weights: an \.onnx file"):
        build_segmenter("onnx", num_classes=4).predict([torch.rand(3, 8, 8)], score_threshold=0.1, max_per_image=3)
