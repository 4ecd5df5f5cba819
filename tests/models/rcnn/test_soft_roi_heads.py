"""Soft heads against hand-computed figures and torchvision's losses."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.roi_heads import fastrcnn_loss, maskrcnn_loss

from raylabel.models.build import build_segmenter
from raylabel.models.rcnn.soft_maskrcnn import SoftMaskRCNN
from raylabel.models.rcnn.soft_roi_heads import SoftRoIHeads, soft_cross_entropy
from raylabel.models.segmenter import LOSS_TERMS, Target

NUM_CLASSES = 3
SIZE = (64, 64)


@pytest.fixture
def segmenter() -> SoftMaskRCNN:
    torch.manual_seed(1)
    segmenter = build_segmenter("tiny_maskrcnn", num_classes=NUM_CLASSES)
    assert isinstance(segmenter, SoftMaskRCNN)
    return segmenter


def one_target(class_probs: list[list[float]], weights: list[float] | None = None) -> dict[str, torch.Tensor]:
    boxes = torch.tensor([[4.0, 4, 28, 28], [30, 30, 60, 60]])[: len(class_probs)]
    masks = torch.zeros(len(boxes), *SIZE, dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = 1
    return {
        "boxes": boxes,
        "masks": masks,
        "class_probs": torch.tensor(class_probs),
        "weights": torch.tensor(weights or [1.0] * len(boxes)),
        "location_weights": torch.ones(len(boxes)),
        "class_mask": torch.ones(len(class_probs[0]), dtype=torch.bool),
    }


def features() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {str(level): torch.rand(1, 48, side, side, generator=generator) for level, side in enumerate((16, 8, 4))}


def test_soft_cross_entropy_by_hand() -> None:
    # logits (0, ln 3): probabilities 1/4 and 3/4. Target (0.5, 0.5): (ln 4 + ln 4/3) / 2; target (0, 1): ln 4/3.
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    targets = torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    everything = torch.ones(2, 2, dtype=torch.bool)
    first, second = (math.log(4) + math.log(4 / 3)) / 2, math.log(4 / 3)
    got = soft_cross_entropy(logits, targets, torch.tensor([1.0, 1.0]), everything)
    assert got.item() == pytest.approx((first + second) / 2)
    weighted = soft_cross_entropy(logits, targets, torch.tensor([0.5, 2.0]), everything)
    assert weighted.item() == pytest.approx((0.5 * first + 2 * second) / 2)
    assert soft_cross_entropy(logits[:0], targets[:0], torch.zeros(0), everything[:0]).item() == 0


def test_classes_that_take_no_part_are_left_out_by_hand() -> None:
    # Without the third class logits (0, ln 3) give 1/4 and 3/4. Targets (0.6, 0.2, 0.2) become (0.75, 0.25).
    logits = torch.tensor([[0.0, math.log(3), 7.0], [0.0, math.log(3), 0.0]], requires_grad=True)
    targets = torch.tensor([[0.6, 0.2, 0.2], [0.0, 0.0, 1.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    first, second = 0.75 * math.log(4) + 0.25 * math.log(4 / 3), math.log(5)
    loss = soft_cross_entropy(logits, targets, torch.ones(2), mask)
    assert loss.item() == pytest.approx((first + second) / 2)
    loss.backward()
    # softmax - target, over two regions.
    expected = torch.tensor([[(0.25 - 0.75) / 2, (0.75 - 0.25) / 2, 0.0], [0.1, 0.3, -0.4]])
    torch.testing.assert_close(logits.grad, expected)
    assert logits.grad is not None
    assert logits.grad[0, 2] == 0


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 999), scale=st.floats(0.1, 1000))
def test_logits_of_classes_that_take_no_part_get_no_gradient(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(6, 9, generator=generator) * scale).requires_grad_()
    targets = torch.rand(6, 9, generator=generator).softmax(dim=1)
    mask = torch.rand(6, 9, generator=generator) < 0.5
    mask[:, -1] = True
    loss = soft_cross_entropy(logits, targets, torch.rand(6, generator=generator), mask)
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert (logits.grad[~mask] == 0).all()
    assert torch.isfinite(logits.grad).all()


def test_the_class_layer_learns_nothing_of_classes_that_an_image_was_not_searched_for(segmenter: SoftMaskRCNN) -> None:
    """Two images have different class masks. A class outside both masks has a gradient of exactly 0."""
    images = [torch.rand(3, *SIZE) for _ in range(2)]
    target = one_target([[1.0, 0, 0, 0]])
    targets = [
        Target(
            boxes_xyxy=target["boxes"],
            masks_NHW=target["masks"],
            class_probs=target["class_probs"],
            weights=target["weights"],
            class_mask=torch.tensor(mask),
        )
        for mask in ([True, False, False, True], [True, True, False, True])
    ]
    segmenter.losses(images, targets, terms=frozenset({"classes"}))["classes"].backward()
    layer = segmenter.roi_heads.box_predictor.class_logits
    assert (layer.weight.grad.abs().sum(dim=1) > 0).tolist() == [True, True, False, True]


def test_hard_targets_give_torchvisions_own_losses(segmenter: SoftMaskRCNN) -> None:
    """For one-hot targets the three losses equal torchvision's for the same regions."""
    heads = segmenter.roi_heads.train()
    target = one_target([[1.0, 0, 0, 0], [0, 0, 1.0, 0]])
    proposals = [torch.tensor([[5.0, 5, 27, 28], [31, 31, 58, 60], [0, 40, 20, 60], [40, 2, 60, 20]])]
    torch.manual_seed(3)
    got = heads(features(), list(proposals), [SIZE], [target], LOSS_TERMS)

    torch.manual_seed(3)
    regions, rows, is_object, box_targets = heads.select_training_samples(list(proposals), [target])
    box_features = heads.box_features(features(), regions, [SIZE])
    logits, deltas = heads.box_predictor.class_logits(box_features), heads.box_predictor.box_deltas(box_features)
    # torchvision has background at 0, classes from 1, and one box per class. Here all classes get the same box.
    labels = [torch.where(is_object[0] > 0, target["class_probs"].argmax(1)[rows[0]] + 1, 0)]
    classes, boxes = fastrcnn_loss(logits.roll(1, dims=1), deltas.repeat(1, NUM_CLASSES + 1), labels, box_targets)
    assert (is_object[0] > 0).sum() >= 2, "both objects must be among the regions"
    assert (is_object[0] == 0).any(), "background must be among the regions"
    torch.testing.assert_close(got["classes"], classes)
    torch.testing.assert_close(got["boxes"], boxes)

    positive = [regions[0][is_object[0] > 0]]
    mask_logits = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features(), positive, [SIZE])))
    zeros = [torch.zeros(2, dtype=torch.int64)]
    masks = maskrcnn_loss(mask_logits, positive, [target["masks"]], zeros, [rows[0][is_object[0] > 0]])
    torch.testing.assert_close(got["masks"], masks)


def test_a_region_gets_the_soft_vector_of_its_object_and_background_its_own(segmenter: SoftMaskRCNN) -> None:
    target = one_target([[0.7, 0.2, 0.0, 0.1], [0.0, 0.0, 0.6, 0.4]], weights=[0.25, 0.5])
    probs, weights = segmenter.roi_heads._class_targets([target], [torch.tensor([1, 0, 0])], [torch.tensor([1, 1, 0])])
    expected = torch.stack([target["class_probs"][1], target["class_probs"][0], torch.tensor([0.0, 0, 0, 1])])
    torch.testing.assert_close(probs, expected)
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.25, 1.0]))


def test_heads_of_other_terms_are_not_run(segmenter: SoftMaskRCNN, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("must not be run")

    target = Target(
        boxes_xyxy=torch.tensor([[4.0, 4, 40, 40]]),
        masks_NHW=torch.ones(1, *SIZE, dtype=torch.bool),
        class_probs=F.one_hot(torch.tensor([0]), NUM_CLASSES + 1).float(),
        weights=torch.ones(1),
    )
    images = [torch.rand(3, *SIZE)]
    monkeypatch.setattr(segmenter.roi_heads.mask_head, "forward", refuse)
    monkeypatch.setattr(segmenter.roi_heads.box_predictor.box_deltas, "forward", refuse)
    losses = segmenter.losses(images, [target], terms=frozenset({"classes", "objectness"}))
    assert set(losses) == {"classes", "objectness"}
    with pytest.raises(AssertionError, match="must not be run"):
        segmenter.losses(images, [target], terms=frozenset({"masks"}))


def test_suppression_looks_at_boxes_not_at_classes(segmenter: SoftMaskRCNN, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of three regions are nearly equal but differ in class. The better one and the lone one are kept."""
    heads: SoftRoIHeads = segmenter.roi_heads.eval()
    logits = torch.tensor([[0.0, 4, 0, 0], [5.0, 0, 0, 0], [0.0, 0, 3, 2]])
    monkeypatch.setattr(heads.box_predictor.class_logits, "forward", lambda features: logits)
    monkeypatch.setattr(heads.box_predictor.box_deltas, "forward", lambda features: torch.zeros(3, 4))
    boxes = torch.tensor([[4.0, 4, 28, 28], [5, 4, 28, 28], [32, 32, 60, 60]])
    [found] = heads.detect(features(), [boxes], [SIZE], score_threshold=0.0, max_per_image=10)
    torch.testing.assert_close(found.boxes_xyxy, boxes[[1, 2]])
    torch.testing.assert_close(found.class_probs, logits.softmax(1)[[1, 2]])
    assert len(found.mask_probs) == 2
    [best] = heads.detect(features(), [boxes], [SIZE], score_threshold=0.0, max_per_image=1)
    assert len(best.boxes_xyxy) == 1
    [certain] = heads.detect(features(), [boxes], [SIZE], score_threshold=0.9, max_per_image=10)
    torch.testing.assert_close(certain.boxes_xyxy, boxes[[1]])


def test_where_an_object_is_in_doubt_nothing_is_learnt(segmenter: SoftMaskRCNN) -> None:
    """The class of a doubtful object changes no loss, and its regions do not count as background."""
    heads = segmenter.roi_heads.train()
    proposals = [torch.tensor([[5.0, 5, 27, 28], [31, 31, 58, 60], [29, 30, 60, 58], [0, 40, 20, 60]])]

    def losses(second: list[float]) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        target = one_target([[1.0, 0, 0, 0], second], weights=[1.0, 0.0])
        return heads(features(), [proposals[0].clone()], [SIZE], [target], LOSS_TERMS)

    first, second = losses([0, 1.0, 0, 0]), losses([0, 0, 0, 1.0])
    for term, value in first.items():
        torch.testing.assert_close(value, second[term])
    torch.manual_seed(3)
    learnt = one_target([[1.0, 0, 0, 0], [0, 1.0, 0, 0]])
    assert heads(features(), [proposals[0].clone()], [SIZE], [learnt], LOSS_TERMS)["boxes"] > first["boxes"]


def test_box_and_mask_losses_are_weighed_by_object(segmenter: SoftMaskRCNN) -> None:
    """Each object adds its part times its weight, and the class loss does not change."""
    heads = segmenter.roi_heads.train()
    proposals = [torch.tensor([[5.0, 5, 27, 28], [31, 31, 58, 60], [0, 40, 20, 60]])]

    def losses(*location_weights: float) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        target = one_target([[1.0, 0, 0, 0], [0, 1.0, 0, 0]])
        target["location_weights"] = torch.tensor(location_weights)
        return heads(features(), [proposals[0].clone()], [SIZE], [target], LOSS_TERMS)

    both, first, second, weighed = losses(1, 1), losses(1, 0), losses(0, 1), losses(0.25, 2)
    for term in ("boxes", "masks"):
        assert first[term] > 0
        torch.testing.assert_close(both[term], first[term] + second[term])
        torch.testing.assert_close(weighed[term], 0.25 * first[term] + 2 * second[term])
    torch.testing.assert_close(weighed["classes"], both["classes"])


def test_anchors_over_a_doubtful_object_are_left_out(segmenter: SoftMaskRCNN) -> None:
    anchors = [torch.tensor([[4.0, 4, 28, 28], [30, 30, 60, 60], [36, 36, 66, 66], [0, 44, 10, 54]])]
    target = one_target([[1.0, 0, 0, 0], [0, 1.0, 0, 0]], weights=[1.0, 0.0])
    [labels], _ = segmenter.rpn.assign_targets_to_anchors(anchors, [target])
    assert labels.tolist() == [1, -1, -1, 0]
    sure = one_target([[1.0, 0, 0, 0], [0, 1.0, 0, 0]])
    [labels], _ = segmenter.rpn.assign_targets_to_anchors(anchors, [sure])
    assert labels.tolist() == [1, 1, -1, 0]
    only = {name: value[1:] for name, value in target.items()}
    [labels], _ = segmenter.rpn.assign_targets_to_anchors(anchors, [only])
    assert labels.tolist() == [0, -1, -1, 0]


def test_an_anchor_on_an_object_is_learnt_although_a_doubtful_one_lies_over_it(segmenter: SoftMaskRCNN) -> None:
    """The anchor is the sure object, and has an IoU of 0.64 with the doubtful one."""
    target = one_target([[1.0, 0, 0, 0], [0, 1.0, 0, 0]], weights=[1.0, 0.0])
    target["boxes"] = torch.tensor([[4.0, 4, 28, 28], [4, 4, 34, 34]])
    anchors = [torch.tensor([[4.0, 4, 28, 28], [4, 4, 34, 34], [40, 40, 60, 60]])]
    [labels], [boxes] = segmenter.rpn.assign_targets_to_anchors(anchors, [target])
    assert labels[0] == 1
    assert boxes[0].tolist() == [4, 4, 28, 28]
    assert labels[2] == 0
