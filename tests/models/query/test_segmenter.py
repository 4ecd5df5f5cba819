"""Query segmenters: masks, options, weights, learning."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers", reason="needs the extra transformers")

from transformers import SwinConfig, SwinForImageClassification

from raylabel.errors import InputError
from raylabel.masks.rle import encode_masks, mask_iou
from raylabel.models.build import build_segmenter
from raylabel.models.parts.map_masks import upsample_inside
from raylabel.models.query.families import TINY
from raylabel.models.query.segmenter import QuerySegmenter
from raylabel.models.saved import load_segmenter, save_segmenter
from raylabel.models.segmenter import Target
from raylabel.models.weights.loading import load_weights

MODELS = ("mask2former_tiny", "eomt_tiny")


def build(model: str, **options: Any) -> QuerySegmenter:
    torch.manual_seed(0)
    segmenter = build_segmenter(model, num_classes=2, options=options)
    assert isinstance(segmenter, QuerySegmenter)
    return segmenter


@pytest.mark.parametrize(("size", "padded"), [((64, 96), (64, 96)), ((50, 70), (64, 96)), ((37, 41), (64, 96))])
def test_masks_are_those_of_interpolating_the_whole_map(size: tuple[int, int], padded: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = F.avg_pool2d(torch.randn(1, 1, 18, 26, generator=generator), 3, stride=1)[0, 0] - 0.1
    whole = F.interpolate(logits[None, None], size=padded, mode="bilinear", align_corners=False)[0, 0]
    wanted = whole[: size[0], : size[1]].sigmoid().numpy()
    probs, place = upsample_inside(logits.numpy(), (16 / padded[0], 24 / padded[1]), size)
    np.testing.assert_allclose(probs, wanted[place], atol=1e-5)
    outside = np.ones(size, bool)
    outside[place] = False
    assert (wanted[outside] <= 0.5 + 1e-6).all()


def test_a_small_mask_makes_a_small_part_of_the_image() -> None:
    logits = np.full((32, 32), -5, np.float32)
    logits[10:12, 4] = 5
    probs, place = upsample_inside(logits, (32 / 1024, 32 / 1024), (1024, 1024))
    assert probs.shape == (96, 64)
    assert place[0].start == round(9.5 * 32)


def square_image(which: int) -> tuple[torch.Tensor, Target]:
    """Draw a bright square of one of two colours on dark noise."""
    generator = torch.Generator().manual_seed(which)
    image = torch.rand(3, 64, 64, generator=generator) * 0.2
    start = 6 + 18 * which
    image[which, start : start + 30, start : start + 30] += 0.7
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, start : start + 30, start : start + 30] = True
    return image, Target(
        boxes_xyxy=torch.tensor([[start, start, start + 30, start + 30]], dtype=torch.float32),
        masks_NHW=mask,
        class_probs=F.one_hot(torch.tensor([which]), 3).float(),
        weights=torch.ones(1),
    )


@pytest.mark.parametrize("model", MODELS)
def test_two_images_are_learnt_by_heart(model: str) -> None:
    segmenter = build(model, train_num_points=256, **({"image_size": 64} if model == "eomt_tiny" else {}))
    images, targets = map(list, zip(*[square_image(which) for which in (0, 1)], strict=True))
    optimizer = torch.optim.AdamW(segmenter.parameters(), lr=1e-3)
    for _ in range(40):
        loss = torch.stack(list(segmenter.losses(images, targets).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for found, target in zip(segmenter.predict(images, score_threshold=0.2, max_per_image=5), targets, strict=True):
        assert found.class_indices[0] == target.class_probs[0].argmax()
        assert mask_iou(found.masks[:1], encode_masks(target.masks_NHW.numpy()), [False])[0, 0] > 0.6
        np.testing.assert_allclose(found.boxes_xyxy[0], target.boxes_xyxy[0], atol=5)
        assert 0.5 <= found.mask_quality[0] <= 1


def test_masks_are_not_learnt_where_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> Any:
        raise AssertionError("must not be run")

    segmenter = build("mask2former_tiny")
    image, target = square_image(0)
    monkeypatch.setattr(segmenter.criterion, "sample_points_using_uncertainty", refuse)
    assert set(segmenter.losses([image], [target], terms=frozenset({"classes"}))) == {"classes"}
    monkeypatch.setattr(segmenter.network, "forward", refuse)
    nothing = segmenter.losses([image], [target], terms=frozenset({"objectness", "boxes"}))
    assert {name: value.item() for name, value in nothing.items()} == {"objectness": 0.0, "boxes": 0.0}


@pytest.mark.parametrize("model", MODELS)
def test_a_saved_model_keeps_its_options(model: str, tmp_path: Path) -> None:
    segmenter = build(model, num_queries=7)
    save_segmenter(segmenter, str(tmp_path), {"model": model, "model_options": {"num_queries": 7}})
    loaded, _ = load_segmenter(str(tmp_path))
    images = [torch.rand(3, 60, 70)]
    [before] = segmenter.predict(images, score_threshold=0.0, max_per_image=5)
    [after] = loaded.predict(images, score_threshold=0.0, max_per_image=5)
    assert before.masks == after.masks
    np.testing.assert_array_equal(before.soft_vectors, after.soft_vectors)


def test_any_backbone_that_transformers_takes() -> None:
    backbone = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
    segmenter = build("mask2former_tiny", backbone_config={**backbone, "layer_type": "basic"})
    image, target = square_image(0)
    assert segmenter.embed([image], [target], layer="backbone").shape == (1, 32)
    assert segmenter.embed([image], [target]).shape == (1, 64)
    layers = segmenter.backbone_layers()
    assert max(layers.values()) == 4
    assert layers["network.model.pixel_level_module.encoder.embedder.embedder.convolution.weight"] == 0


def test_layers_of_the_backbone_are_counted_from_the_image() -> None:
    layers = build("eomt_tiny").backbone_layers()
    assert {layers[f"network.layers.{number}.norm1.weight"] for number in range(6)} == set(range(1, 7))
    assert not any("query" in name or "mask_head" in name for name in layers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"num_querys": 7},
            r"model_options.num_querys: mask2former_tiny has no such option. Did you mean num_queries\?",
        ),
        ({"num_queries": "many"}, r"model_options of mask2former_tiny: .*num_queries"),
        ({"num_labels": 7}, r"model_options.num_labels: .* no such option"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build("mask2former_tiny", **options)


def test_other_families_take_no_options() -> None:
    with pytest.raises(InputError, match=r"model_options.num_queries: tiny_maskrcnn takes none"):
        build_segmenter("tiny_maskrcnn", num_classes=2, options={"num_queries": 3})
    with pytest.raises(
        InputError, match=r"eomt_tiny sees squares and takes none, got 64\. Set model_options\.image_size"
    ):
        build_segmenter("eomt_tiny", num_classes=2, min_size=64)


def test_a_file_of_transformers_fits_whole_and_its_backbone_alone(tmp_path: Path) -> None:
    source = build("mask2former_tiny")
    theirs = source.network.state_dict()
    path = tmp_path / "model.safetensors"
    save_file({**theirs, "criterion.empty_weight": torch.ones(3)}, path)
    torch.manual_seed(9)
    model = build_segmenter("mask2former_tiny", num_classes=2)
    report = load_weights(model, path)
    assert set(report.left_at_init) == {"criterion.empty_weight"}
    for name, value in theirs.items():
        torch.testing.assert_close(model.state_dict()[f"network.{name}"], value)
    config = SwinConfig(**{**TINY["backbone_config"], "out_features": None})
    SwinForImageClassification(config).save_pretrained(tmp_path)
    in_file = load_file(path)["swin.embeddings.patch_embeddings.projection.weight"]
    report = load_weights(model, path)
    assert {name.split(".")[3] for name in report.loaded} == {"encoder"}
    projection = "network.model.pixel_level_module.encoder.swin.embeddings.patch_embeddings.projection.weight"
    torch.testing.assert_close(model.state_dict()[projection], in_file)
    attention = "network.model.pixel_level_module.encoder.swin.encoder.layers.0.blocks.0.attention.q_proj.weight"
    assert attention in report.loaded


def test_a_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"other.weight": torch.ones(3)}, path)
    with pytest.raises(InputError, match="no weight fits QuerySegmenter"):
        load_weights(build("mask2former_tiny"), path)
