"""Augmentation moves objects with their pixels, and depends on its generator alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.models.protocols import Target
from raylabel.training.augment import Augment, flip, strong_augmentation, weak_augmentation


def scene(seed: int, num: int = 3, size: tuple[int, int] = (24, 36)) -> tuple[torch.Tensor, Target]:
    """Rectangles; the first channel is 1 where any of them is."""
    rng = np.random.default_rng(seed)
    height, width = size
    boxes, masks = np.zeros((num, 4), np.float32), np.zeros((num, *size), bool)
    for box, mask in zip(boxes, masks, strict=True):
        x0, y0 = rng.integers(0, width - 4), rng.integers(0, height - 4)
        box[:] = x0, y0, rng.integers(x0 + 1, width + 1), rng.integers(y0 + 1, height + 1)
        mask[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = True
    image = torch.from_numpy(rng.random((3, *size), dtype=np.float32))
    image[0] = torch.from_numpy(masks.any(axis=0).astype(np.float32)) if num else 0
    target = Target(
        boxes_xyxy=torch.from_numpy(boxes),
        masks_NHW=torch.from_numpy(masks),
        class_probs=torch.eye(num, 5),
        weights=torch.ones(num),
    )
    return image, target


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), num=st.integers(0, 4))
def test_a_flip_moves_masks_and_boxes_with_the_pixels_and_two_are_none(seed: int, num: int) -> None:
    image, target = scene(seed, num)
    flipped_image, flipped = flip(image, target)
    assert torch.equal(flipped_image[0].bool(), flipped.masks_NHW.any(dim=0))
    for box, mask in zip(flipped.boxes_xyxy, flipped.masks_NHW, strict=True):
        rows, columns = torch.where(mask)
        tight = [columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1]
        assert box.tolist() == tight
    again_image, again = flip(flipped_image, flipped)
    assert torch.equal(again_image, image)
    assert torch.equal(again.boxes_xyxy, target.boxes_xyxy)
    assert torch.equal(again.masks_NHW, target.masks_NHW)


@pytest.mark.parametrize("augment", [weak_augmentation, strong_augmentation])
def test_augmentation_is_a_function_of_its_generator(augment: Augment) -> None:
    image, target = scene(3)
    kept = image.clone()
    outputs = set()
    for seed in range(8):
        first, first_target = augment(image, target, np.random.default_rng(seed))
        second, second_target = augment(image, target, np.random.default_rng(seed))
        assert torch.equal(first, second)
        assert torch.equal(first_target.boxes_xyxy, second_target.boxes_xyxy)
        assert first.shape == image.shape
        assert first.dtype == torch.float32
        assert 0 <= first.min() <= first.max() <= 1
        outputs.add(first.numpy().tobytes())
    assert torch.equal(image, kept), "the input must not be changed"
    assert len(outputs) == (2 if augment is weak_augmentation else 8)
