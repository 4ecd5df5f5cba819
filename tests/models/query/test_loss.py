"""The query loss against transformers' loss for certain targets, and by hand for soft and doubtful ones."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("transformers", reason="needs the extra transformers")

from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerHungarianMatcher, Mask2FormerLoss

from raylabel.models.query.loss import QueryTargets, SoftQueryLoss
from raylabel.models.segmenter import LOSS_TERMS

NUM_CLASSES, NUM_QUERIES, SIDE = 3, 6, 32
CONFIG = Mask2FormerConfig(num_labels=NUM_CLASSES, train_num_points=256)
EVERY_CLASS = torch.ones(NUM_CLASSES + 1, dtype=torch.bool)
BOXES = ((0, 0, 14, 14), (16, 16, 32, 32), (0, 20, 10, 32))


def square(box: tuple[int, int, int, int]) -> torch.Tensor:
    mask = torch.zeros(SIDE, SIDE)
    mask[box[1] : box[3], box[0] : box[2]] = 1
    return mask


def targets_of(classes: list[int], weights: list[float] | None = None) -> QueryTargets:
    return QueryTargets(
        masks=torch.stack([square(box) for box in BOXES[: len(classes)]]),
        class_probs=F.one_hot(torch.tensor(classes), NUM_CLASSES + 1).float(),
        weights=torch.tensor(weights or [1.0] * len(classes)),
        location_weights=torch.ones(len(classes)),
        class_mask=EVERY_CLASS,
    )


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    masks = torch.randn(2, NUM_QUERIES, 8, 8, generator=generator)
    return masks, torch.randn(2, NUM_QUERIES, NUM_CLASSES + 1, generator=generator)


def test_certain_targets_give_the_loss_of_transformers(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    weights = {
        "loss_cross_entropy": CONFIG.class_weight,
        "loss_mask": CONFIG.mask_weight,
        "loss_dice": CONFIG.dice_weight,
    }
    theirs = Mask2FormerLoss(CONFIG, weights)
    targets = [targets_of([0, 1, 2]), targets_of([1])]
    masks = [one.masks for one in targets]
    torch.manual_seed(1)
    parts = theirs(*logits, masks, [torch.tensor([0, 1, 2]), torch.tensor([1])])
    torch.manual_seed(1)
    ours = SoftQueryLoss(CONFIG).of_layer(*logits, targets, LOSS_TERMS)
    torch.testing.assert_close(ours["classes"], CONFIG.class_weight * parts["loss_cross_entropy"])
    wanted = CONFIG.mask_weight * parts["loss_mask"] + CONFIG.dice_weight * parts["loss_dice"]
    torch.testing.assert_close(ours["masks"], wanted)


def test_a_soft_class_is_matched_and_learnt_by_its_share(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    """All masks are equal, so the class cost alone decides the match. The loss is computed by hand."""
    masks = torch.zeros(1, 2, 8, 8)
    classes = torch.tensor([[[4.0, 0, 0, 0], [0, 4.0, 0, 0]]])
    target = QueryTargets(
        masks=square(BOXES[0])[None],
        class_probs=torch.tensor([[0.3, 0.7, 0, 0]]),
        weights=torch.tensor([0.5]),
        location_weights=torch.ones(1),
        class_mask=EVERY_CLASS,
    )
    loss = SoftQueryLoss(CONFIG)
    [(queries, objects)] = loss.matcher.match(masks, classes, [target])
    assert (queries.tolist(), objects.tolist()) == ([1], [0])
    log_probs = classes[0].log_softmax(-1)
    object_loss = -(0.3 * log_probs[1, 0] + 0.7 * log_probs[1, 1])
    nothing_loss = -CONFIG.no_object_weight * log_probs[0, -1]
    wanted = (0.5 * object_loss + nothing_loss) / (1 + CONFIG.no_object_weight)
    got = loss.of_layer(masks, classes, [target], frozenset({"classes"}))
    assert set(got) == {"classes"}
    torch.testing.assert_close(got["classes"], CONFIG.class_weight * wanted)


def test_where_an_object_is_in_doubt_nothing_is_learnt() -> None:
    """Queries 0 and 1 lie on the doubtful object, 2 on the other, 3 on none. Only 2 and 3 get a class gradient."""
    first, second, _ = (square(box)[None, None] for box in BOXES)
    small = [F.interpolate(one, size=(8, 8), mode="area")[0, 0] * 20 - 10 for one in (first, first, second)]
    masks = torch.stack([*small, torch.full((8, 8), -10.0)])[None].requires_grad_()
    classes = torch.zeros(1, 4, NUM_CLASSES + 1, requires_grad=True)
    losses = SoftQueryLoss(CONFIG).of_layer(masks, classes, [targets_of([0, 1], weights=[0.0, 1.0])], LOSS_TERMS)
    (losses["classes"] + losses["masks"]).backward()
    assert classes.grad is not None
    assert masks.grad is not None
    assert [bool(one.any()) for one in classes.grad[0]] == [False, False, True, True]
    assert [bool(one.any()) for one in masks.grad[0]] == [False, False, True, False]


def test_images_without_objects_teach_background_alone(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    empty = QueryTargets(
        masks=torch.zeros(0, SIDE, SIDE),
        class_probs=torch.zeros(0, NUM_CLASSES + 1),
        weights=torch.zeros(0),
        location_weights=torch.zeros(0),
        class_mask=EVERY_CLASS,
    )
    losses = SoftQueryLoss(CONFIG).of_layer(*logits, [empty, empty], LOSS_TERMS)
    assert losses["masks"] == 0
    wanted = -logits[1].log_softmax(-1)[..., -1].mean()
    torch.testing.assert_close(losses["classes"], CONFIG.class_weight * wanted)


def test_matches_are_those_of_transformers(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    loss, targets = SoftQueryLoss(CONFIG), [targets_of([0, 1, 2]), targets_of([1, 1])]
    theirs = Mask2FormerHungarianMatcher(
        cost_class=CONFIG.class_weight, cost_mask=CONFIG.mask_weight, cost_dice=CONFIG.dice_weight, num_points=256
    )
    torch.manual_seed(3)
    wanted = theirs(*logits, [one.masks for one in targets], [torch.tensor([0, 1, 2]), torch.tensor([1, 1])])
    torch.manual_seed(3)
    for ours, other in zip(loss.matcher.match(*logits, targets), wanted, strict=True):
        assert [one.tolist() for one in ours] == [one.tolist() for one in other]


def test_a_class_that_nobody_looked_for_gets_no_gradient(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    """The class mask of one image does not affect the other."""
    masks, classes = logits[0], logits[1].requires_grad_()
    partly = replace(targets_of([0]), class_mask=torch.tensor([True, True, False, True]))
    SoftQueryLoss(CONFIG).of_layer(masks, classes, [partly, targets_of([0])], LOSS_TERMS)["classes"].backward()
    assert classes.grad is not None
    assert (classes.grad[0, :, 2] == 0).all()
    assert (classes.grad[0, :, :2] != 0).all()
    assert (classes.grad[1, :, 2] != 0).all()


def test_a_mask_is_learnt_by_its_objects_weight(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    def loss(location_weights: list[float]) -> torch.Tensor:
        torch.manual_seed(2)
        one = replace(targets_of([0, 1]), location_weights=torch.tensor(location_weights))
        return SoftQueryLoss(CONFIG).of_layer(logits[0][:1], logits[1][:1], [one], frozenset({"masks"}))["masks"]

    torch.testing.assert_close(loss([0.5, 1.0]), 0.5 * loss([1.0, 0.0]) + loss([0.0, 1.0]))
