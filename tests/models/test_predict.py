"""Mask quality by agreement with the predictions for the mirrored image."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fakes import FakeSegmenter
from raylabel.masks.rle import encode_masks, mask_boxes
from raylabel.models.build import build_segmenter
from raylabel.models.predict import predict_images
from raylabel.predictions.instances import Instances

HEIGHT, WIDTH = 12, 20
LIMITS: dict[str, Any] = {"score_threshold": 0.25, "max_per_image": 7}


def rectangle(x0: int, x1: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[2:8, x0:x1] = True
    return mask


def instances(*masks: np.ndarray) -> Instances:
    encoded, num = encode_masks(np.stack(masks)) if masks else [], len(masks)
    return Instances(
        image_size_hw=(HEIGHT, WIDTH),
        boxes_xyxy=mask_boxes(encoded),
        masks=tuple(encoded),
        class_indices=np.zeros(num, np.int32),
        raw_scores=np.full(num, 0.9, np.float32),
        soft_vectors=np.tile(np.array([0.9, 0.1], np.float32), (num, 1)),
        mask_quality=np.full(num, 0.7, np.float32),
    )


class ScriptedSegmenter(FakeSegmenter):
    """Returns scripted predictions, one list per call."""

    def __init__(self, *answers: list[Instances]) -> None:
        super().__init__(num_classes=1)
        self.answers = list(answers)
        self.calls: list[tuple[list[Tensor], dict[str, Any]]] = []

    def predict(self, images: list[Tensor], **limits: Any) -> list[Instances]:
        self.calls.append((images, limits))
        return self.answers[len(self.calls) - 1]


IMAGES = [torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]


def test_agreement_is_the_best_overlap_with_what_the_mirrored_image_has() -> None:
    whole, shifted, alone = rectangle(1, 7), rectangle(10, 14), rectangle(15, 19)
    # The mirrored image has the first at its place, the second two pixels off, the third not at all.
    mirrored = instances(rectangle(WIDTH - 7, WIDTH - 1), rectangle(WIDTH - 16, WIDTH - 12))
    segmenter = ScriptedSegmenter([instances(whole, shifted, alone), instances(whole)], [mirrored, instances()])
    first, second = predict_images(segmenter, IMAGES, **LIMITS, mask_quality="agreement")
    # The second shares 2 of 6 columns. The third shares 1 of 7 columns with the mirrored image's second.
    assert first.mask_quality.tolist() == pytest.approx([1.0, 2 / 6, 1 / 7])
    assert second.mask_quality.tolist() == [0.0]
    assert first.mask_quality.dtype == np.float32
    (images, limits), (seen, again) = segmenter.calls
    assert limits == again == LIMITS
    assert all(torch.equal(one.flip(2), other) for one, other in zip(images, seen, strict=True))


def test_all_else_is_what_the_image_itself_says() -> None:
    segmenter = build_segmenter("tiny_maskrcnn", num_classes=3)
    images = [torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    limits: dict[str, Any] = {"score_threshold": 0.0, "max_per_image": 5}
    plain = segmenter.eval().predict(images, **limits)
    agreeing = predict_images(segmenter, images, **limits, mask_quality="agreement")
    assert sum(map(len, plain)) > 0
    for one, other in zip(plain, agreeing, strict=True):
        assert ((other.mask_quality >= 0) & (other.mask_quality <= 1)).all()
        assert not np.array_equal(one.mask_quality, other.mask_quality)
        with_the_same = replace(other, mask_quality=one.mask_quality)
        for name, value in vars(one).items():
            np.testing.assert_array_equal(value, getattr(with_the_same, name), err_msg=name)


def test_nothing_found_and_one_prediction_by_default() -> None:
    nowhere = ScriptedSegmenter([instances()], [instances(rectangle(1, 7))])
    [none] = predict_images(nowhere, IMAGES[:1], **LIMITS, mask_quality="agreement")
    assert len(none) == 0
    segmenter = ScriptedSegmenter([instances(rectangle(1, 7))])
    [found] = predict_images(segmenter, IMAGES[:1], **LIMITS)
    assert found.mask_quality.tolist() == pytest.approx([0.7])
    assert len(segmenter.calls) == 1
