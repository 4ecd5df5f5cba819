"""Copy-paste: pasted objects hide the pixels below them, and come from rare images."""

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.models.segmenter import Target
from raylabel.training.augment.copy_paste import RareDonors, paste_objects


class ChosenPlaces(np.random.Generator):
    """Draws the listed places, and permutes nothing."""

    def __init__(self, *places: int) -> None:
        super().__init__(np.random.PCG64(0))
        self.places = list(places)

    def permutation(self, x: int) -> np.ndarray:
        return np.arange(x)

    def integers(self, high: int) -> int:
        place = self.places.pop(0)
        assert place < high
        return place


def a_target(boxes: list[list[int]], size: tuple[int, int], first_class: int = 0) -> Target:
    """Make a target of filled boxes. Object i has class first_class + i and weight (1 + i) / 10."""
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return Target(
        boxes_xyxy=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        masks_NHW=masks,
        class_probs=torch.eye(9)[first_class : first_class + len(boxes)],
        weights=torch.arange(1, len(boxes) + 1) / 10,
    )


def test_pasted_objects_hide_what_is_below_by_hand() -> None:
    image = torch.zeros(3, 10, 10)
    target = a_target([[0, 0, 4, 4], [6, 6, 8, 8], [0, 8, 2, 10]], (10, 10))
    target = replace(target, class_mask=torch.tensor([True] + 7 * [False] + [True]))
    donor_image = torch.ones(3, 20, 20) * 0.7
    donor = a_target([[10, 10, 14, 13], [0, 0, 4, 4], [0, 0, 20, 2]], (20, 20), first_class=5)
    # Object 5 (3 rows, 4 columns) at row 0, column 2; object 6 (4 x 4) at row 5, column 5; object 7 is wider than 10.
    pasted_image, pasted = paste_objects(image, target, donor_image, donor, ChosenPlaces(0, 2, 5, 5))
    # Object 0 keeps columns 0 and 1 of rows 0 to 2, and row 3: its bounds are as before. Object 1 is hidden.
    assert pasted.class_probs.argmax(dim=1).tolist() == [0, 2, 5, 6]
    assert pasted.boxes_xyxy.tolist() == [[0, 0, 4, 4], [0, 8, 2, 10], [2, 0, 6, 3], [5, 5, 9, 9]]
    assert pasted.masks_NHW[0].sum() == 3 * 2 + 4
    assert torch.allclose(pasted.weights, torch.tensor([0.1, 0.3, 0.1, 0.2]))
    assert torch.equal(pasted_image[0] > 0, pasted.masks_NHW[2:].any(dim=0)), "only the pasted pixels are new"
    assert pasted.class_mask.tolist() == [True] + 4 * [False] + [True, True, False, True], "pasted classes take part"
    assert image.sum() == 0, "the input must not be changed"
    assert target.masks_NHW[0].sum() == 16


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), num=st.integers(0, 3), num_pasted=st.integers(0, 3))
def test_masks_do_not_overlap_what_was_pasted_and_boxes_bound_them(seed: int, num: int, num_pasted: int) -> None:
    rng = np.random.default_rng(seed)

    def boxes(number: int) -> list[list[int]]:
        corners = rng.integers(0, 15, (number, 2))
        return np.concatenate([corners, corners + rng.integers(1, 10, (number, 2))], axis=1).tolist()

    target, donor = a_target(boxes(num), (24, 24)), a_target(boxes(num_pasted), (24, 24), first_class=4)
    image, pasted = paste_objects(torch.zeros(3, 24, 24), target, torch.ones(3, 24, 24), donor, rng)
    is_pasted = pasted.class_probs.argmax(dim=1) >= 4
    above = pasted.masks_NHW[is_pasted]
    assert (above.sum(dim=0) <= 1).all()
    assert not (above.any(dim=0) & pasted.masks_NHW[~is_pasted].any(dim=0)).any()
    assert torch.equal(image[0].bool(), above.any(dim=0))
    for box, mask in zip(pasted.boxes_xyxy, pasted.masks_NHW, strict=True):
        rows, columns = torch.where(mask)
        tight = [columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1]
        assert box.tolist() == tight


def test_donors_are_drawn_by_their_repeat_factors() -> None:
    # 8 images: class 0 in all, class 1 in two, class 2 in one. Threshold 0.5: r = 1, 1.41 (sqrt(4 / 2)), 2.
    image_classes = [np.array(classes) for classes in ([0, 1], [0, 1], [0, 2], [0], [0], [0], [0], [0])]
    donors = RareDonors(image_classes, 3, 0.5)
    assert donors.is_rare.tolist() == [False, True, True]
    rng = np.random.default_rng(0)
    counts = np.bincount([donors.draw(rng) for _ in range(4000)], minlength=8)
    excess = np.sqrt(2) - 1
    expected = np.array([excess, excess, 1, 0, 0, 0, 0, 0]) / (2 * excess + 1)
    np.testing.assert_allclose(counts / 4000, expected, atol=0.03)
    assert RareDonors(image_classes, 3, 0.0).draw(rng) is None
