"""The whole Mask R-CNN: pasting of masks against torchvision, sizes, batches, learning, determinism."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.roi_heads import paste_masks_in_image

from raylabel.masks.rle import decode_masks, encode_masks, mask_iou
from raylabel.models.build import build_segmenter
from raylabel.models.rcnn.soft_maskrcnn import paste_mask
from raylabel.models.segmenter import Segmenter, Target


@settings(max_examples=60, deadline=None)
@given(
    box=st.tuples(*[st.floats(-5, 70)] * 4),
    side=st.sampled_from([14, 20, 28]),
    seed=st.integers(0, 99),
)
def test_pasting_gives_the_pixels_of_torchvision(box: tuple[float, ...], side: int, seed: int) -> None:
    height, width = 50, 60
    x0, x1 = sorted((min(max(box[0], 0), width), min(max(box[2], 0), width)))
    y0, y1 = sorted((min(max(box[1], 0), height), min(max(box[3], 0), height)))
    mask = torch.rand(side, side, generator=torch.Generator().manual_seed(seed))
    whole = paste_masks_in_image(mask[None, None], torch.tensor([[x0, y0, x1, y1]]), (height, width))[0, 0].numpy()
    inside, place = paste_mask(mask, (x0, y0, x1, y1), (height, width))
    ours = np.zeros((height, width), np.float32)
    ours[place] = inside
    np.testing.assert_allclose(ours, whole, atol=1e-6)


def square_image(seed: int) -> tuple[torch.Tensor, Target]:
    """Draw a bright square of one of two colours on dark noise."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(3, 64, 64, generator=generator) * 0.2
    x, y = torch.randint(2, 30, (2,), generator=generator).tolist()
    which = seed % 2
    image[which, y : y + 30, x : x + 30] += 0.7
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, y : y + 30, x : x + 30] = True
    probs = torch.zeros(1, 3)
    probs[0, which] = 1.0
    box = torch.tensor([[x, y, x + 30, y + 30]], dtype=torch.float32)
    return image, Target(boxes_xyxy=box, masks_NHW=mask, class_probs=probs, weights=torch.ones(1))


def fit(segmenter: Segmenter, images: list[torch.Tensor], targets: list[Target], num_steps: int) -> list[float]:
    optimizer = torch.optim.AdamW([one for _, one in segmenter.named_parameters()], lr=2e-3)
    history = []
    for _ in range(num_steps):
        loss = torch.stack(list(segmenter.losses(images, targets).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return history


def test_two_images_are_learnt_by_heart() -> None:
    """After 60 steps both squares are found, with the right class and mask."""
    torch.manual_seed(0)
    segmenter = build_segmenter("tiny_maskrcnn", num_classes=2)
    images, targets = map(list, zip(*[square_image(seed) for seed in (0, 1)], strict=True))
    history = fit(segmenter, images, targets, num_steps=60)
    assert np.mean(history[-5:]) < 0.35 * np.mean(history[:3])
    for found, target in zip(segmenter.predict(images, score_threshold=0.3, max_per_image=5), targets, strict=True):
        assert found.class_indices[0] == target.class_probs[0].argmax()
        truth = encode_masks(target.masks_NHW.numpy())
        assert mask_iou(found.masks[:1], truth, [False])[0, 0] > 0.6
        inside = decode_masks(found.masks, found.image_size_hw)[0]
        assert found.mask_areas[0] == inside.sum()
        assert 0.5 <= found.mask_quality[0] <= 1


def test_the_same_seed_gives_the_same_model_and_losses() -> None:
    images, targets = map(list, zip(*[square_image(seed) for seed in (0, 1)], strict=True))
    losses = []
    for _ in range(2):
        torch.manual_seed(7)
        losses.append(build_segmenter("tiny_maskrcnn", num_classes=2).losses(images, targets))
    assert {name: value.item() for name, value in losses[0].items()} == {
        name: value.item() for name, value in losses[1].items()
    }


@pytest.mark.parametrize("min_size", [None, 96])
def test_predictions_come_back_in_the_images_own_size(min_size: int | None) -> None:
    torch.manual_seed(0)
    segmenter = build_segmenter("tiny_maskrcnn", num_classes=2, min_size=min_size)
    images = [torch.rand(3, 40, 72), torch.rand(3, 65, 51)]
    for image, found in zip(images, segmenter.predict(images, score_threshold=0.0, max_per_image=20), strict=True):
        assert found.image_size_hw == tuple(image.shape[1:])
        assert len(found) > 0
        assert (found.boxes_xyxy >= 0).all()
        assert (found.boxes_xyxy <= np.array([image.shape[2], image.shape[1]] * 2)).all()


def test_what_is_said_of_an_image_does_not_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    segmenter = build_segmenter("tiny_maskrcnn", num_classes=2)
    image, target = square_image(0)
    other, other_target = torch.rand(3, 90, 120), Target.empty((90, 120), 2)
    batch, batch_targets = [other, image, square_image(1)[0]], [other_target, target, square_image(1)[1]]
    [alone] = segmenter.predict([image], score_threshold=0.0, max_per_image=8)
    [first, beside, _] = segmenter.predict(batch, score_threshold=0.0, max_per_image=8)
    assert first.image_size_hw == (90, 120)
    np.testing.assert_allclose(beside.soft_vectors, alone.soft_vectors, atol=1e-4)
    np.testing.assert_allclose(beside.boxes_xyxy, alone.boxes_xyxy, atol=1e-2)
    embeddings = segmenter.embed(batch, batch_targets)
    torch.testing.assert_close(segmenter.embed([image], [target])[0], embeddings[0], atol=1e-5, rtol=1e-4)
    assert embeddings.shape[0] == 2


def test_mixed_precision_gives_finite_losses_and_predictions() -> None:
    torch.manual_seed(0)
    segmenter = build_segmenter("tiny_maskrcnn", num_classes=2)
    image, target = square_image(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = segmenter.losses([image], [target])
        [found] = segmenter.predict([image], score_threshold=0.0, max_per_image=5)
        embeddings = segmenter.embed([image], [target])
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert len(found) > 0
    assert embeddings.dtype == torch.float32


def test_the_tiny_model_is_tiny() -> None:
    segmenter = build_segmenter("tiny_maskrcnn", num_classes=80)
    assert sum(one.numel() for _, one in segmenter.named_parameters()) < 1_000_000
