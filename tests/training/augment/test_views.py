"""Augmentation moves objects with their pixels, and depends only on its generator."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.config import StrongViewConfig, ViewConfig
from raylabel.models.segmenter import Target
from raylabel.training.augment.scale_jitter import jitter_scale
from raylabel.training.augment.views import Augment, flip, strong_augmentation, view, weak_augmentation


def scene(seed: int, num: int = 3, size: tuple[int, int] = (24, 36)) -> tuple[torch.Tensor, Target]:
    """Make an image of rectangles. Its first channel is 1 on every rectangle."""
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


@pytest.mark.parametrize("settings", [ViewConfig(), ViewConfig(flip=1.0, max_scale=3.0), StrongViewConfig()])
def test_the_classes_that_take_part_stay(settings: ViewConfig) -> None:
    image, target = scene(1)
    target = replace(target, class_mask=torch.tensor([True, False, True, False, True]))
    _, moved = view(settings)(image, target, np.random.default_rng(0))
    assert torch.equal(moved.class_mask, target.class_mask)
    assert torch.equal(moved.to("cpu").class_mask, target.class_mask)


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


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    num=st.integers(0, 4),
    scale=st.floats(0.1, 3.0),
    output_size=st.sampled_from([None, 16, 50]),
)
def test_scale_jitter_keeps_pixels_masks_and_boxes_together(
    seed: int, num: int, scale: float, output_size: int | None
) -> None:
    image, target = scene(seed, num)
    jittered, moved = jitter_scale(image, target, np.random.default_rng(seed), scale=scale, output_size=output_size)
    size = (output_size or 24, output_size or 36)
    assert jittered.shape == (3, *size)
    assert moved.masks_NHW.shape[1:] == size
    assert len(moved) <= num
    assert_boxes_bound_masks(moved)
    # The first channel is 1 on objects and 0 beside them, except for one pixel at resized edges.
    is_object, is_beside = jittered[0] > 0.99, jittered[0] < 0.01
    union = moved.masks_NHW.bool().any(dim=0)
    assert not (union & is_beside).any()
    assert not (is_object & ~union).any()
    # Visible objects keep their class: rows of class_probs are one-hot at the object's number.
    kept = moved.class_probs.argmax(dim=1)
    assert (kept.diff() > 0).all()


def test_scale_jitter_by_hand() -> None:
    """An 8 x 8 image at scale 2 becomes a window of 4 x 4 pixels, each doubled. At scale 0.5 the image gets padding."""
    image = torch.zeros(3, 8, 8)
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, 0:2, 0:2] = masks[1, 3:5, 3:5] = True
    target = Target(
        boxes_xyxy=torch.tensor([[0.0, 0, 2, 2], [3, 3, 5, 5]]),
        masks_NHW=masks,
        class_probs=torch.eye(2, 3),
        weights=torch.tensor([0.5, 0.0]),
    )
    for seed in range(20):
        _, seen = jitter_scale(image, target, np.random.default_rng(seed), scale=2.0)
        rng = np.random.default_rng(seed)
        top, left = int(rng.integers(-8, 1)), int(rng.integers(-8, 1))
        # Pixels 3 to 5 become 6 to 10, minus the corner of the window. One of these pixels is always visible.
        expected = [max(6 + left, 0), max(6 + top, 0), min(10 + left, 8), min(10 + top, 8)]
        assert seen.boxes_xyxy[-1].tolist() == expected
        assert seen.weights[-1] == 0.0
        # The object in the corner ends at 4, so a window that begins at 4 or later hides it.
        assert len(seen) == (2 if top > -4 and left > -4 else 1)
        small, both = jitter_scale(image, target, np.random.default_rng(seed), scale=0.5)
        assert (small == 0.5).sum() == 3 * (64 - 16), "padding around 4 x 4 pixels"
        assert both.masks_NHW[0].sum() == 1


def assert_boxes_bound_masks(target: Target) -> None:
    for box, mask in zip(target.boxes_xyxy, target.masks_NHW, strict=True):
        rows, columns = torch.where(mask)
        tight = [columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1]
        assert box.tolist() == tight


def test_a_view_that_asks_for_nothing_changes_nothing() -> None:
    image, target = scene(1)
    same, same_target = view(ViewConfig(flip=0.0))(image, target, np.random.default_rng(0))
    assert torch.equal(same, image)
    assert torch.equal(same_target.boxes_xyxy, target.boxes_xyxy)


@pytest.mark.parametrize(
    "settings",
    [{"flip": 1.0}, {"colour": 0.9}, {"blur": 1.0}, {"cutout": 1.0}, {"max_scale": 2.0}, {"output_size": 30}],
)
def test_every_setting_changes_the_image(settings: dict[str, float]) -> None:
    image, target = scene(1)
    changed, moved = view(ViewConfig(**{"flip": 0.0, **settings}))(image, target, np.random.default_rng(0))
    assert changed.shape != image.shape or not torch.equal(changed, image)
    has_moved = moved.masks_NHW.shape != target.masks_NHW.shape or not torch.equal(moved.masks_NHW, target.masks_NHW)
    assert has_moved == bool(settings.keys() & {"flip", "max_scale", "output_size"})


@pytest.mark.parametrize(("size", "expected"), [((10, 20), (10, 20)), ((20, 10), (20, 10)), ((40, 20), (20, 10))])
def test_at_scale_1_an_image_fits_into_the_output(size: tuple[int, int], expected: tuple[int, int]) -> None:
    """The whole image is visible, and the rest is padding."""
    image, target = torch.ones(3, *size), scene(0, 1, size)[1]
    found, moved = jitter_scale(image, target, np.random.default_rng(0), scale=1.0, output_size=20)
    rows, columns = torch.where(found[0] == 1)
    assert (len(rows.unique()), len(columns.unique())) == expected
    assert (found == 0.5).sum() == 3 * (400 - expected[0] * expected[1])
    assert len(moved) == 1


@pytest.mark.parametrize("setting", ["flip", "blur", "cutout"])
@pytest.mark.parametrize("chance", [0.25, 0.75])
def test_a_chance_is_the_share_of_changed_images(setting: str, chance: float) -> None:
    image, target = scene(1, 1, (8, 8))
    augment = view(ViewConfig(**{"flip": 0.0, setting: chance}))
    changed = [not torch.equal(augment(image, target, np.random.default_rng(seed))[0], image) for seed in range(100)]
    assert np.mean(changed) == pytest.approx(chance, abs=0.15)


def test_the_scale_lies_between_its_limits() -> None:
    """An image of ones gets padding in proportion to its scale."""
    image, target = torch.ones(3, 40, 40), scene(0, 0, (40, 40))[1]
    augment = view(ViewConfig(flip=0.0, min_scale=0.25, max_scale=0.75))
    scales = [
        (augment(image, target, np.random.default_rng(seed))[0][0] > 0.9).sum().item() ** 0.5 / 40
        for seed in range(100)
    ]
    assert 0.24 <= min(scales) < 0.3
    assert 0.7 < max(scales) <= 0.76


@pytest.mark.parametrize("strength", [0.1, 0.5])
def test_colours_change_by_their_strength(strength: float) -> None:
    """A grey image has no contrast, saturation or hue, so only its brightness changes, in 4 of 5 images."""
    image, target = torch.full((3, 4, 4), 0.5), scene(0, 0, (8, 8))[1]
    augment = view(ViewConfig(flip=0.0, colour=strength))
    shades = np.array([augment(image, target, np.random.default_rng(seed))[0].mean().item() for seed in range(120)])
    assert (1 - strength) / 2 - 1e-6 <= shades.min() < (1 - 0.8 * strength) / 2
    assert (1 + 0.8 * strength) / 2 < shades.max() <= (1 + strength) / 2 + 1e-6
    assert np.mean(shades == 0.5) == pytest.approx(0.2, abs=0.1)
