"""Portions of labelled images: nested, of exact size, without a lost class, and the same for any order of the file."""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylabel.dataset.annotations import AnnotatedSet, Category, ImageRecord
from raylabel.dataset.portions import portion_rows
from raylabel.dataset.synthetic.frequencies import draw_classes

NUM_CLASSES = 6
image_classes = st.lists(st.lists(st.integers(0, NUM_CLASSES - 1), max_size=4), min_size=1, max_size=60)
fractions = st.integers(1, 999).map(lambda one: one / 1000)
seeds = st.integers(0, 3)


def annotated_set(of_images: Sequence[Sequence[int]], ids: Sequence[int] | None = None) -> AnnotatedSet:
    """A set whose images show these classes. Class 0 has the highest category id."""
    numbers = range(len(of_images)) if ids is None else ids
    images = [ImageRecord(image_id=one, file_name=f"{one}.jpg", uri="", height=1, width=1) for one in numbers]
    num_classes = max((max(one, default=0) for one in of_images), default=0) + 1
    categories = [Category(category_id=one, name=str(one)) for one in range(max(num_classes, NUM_CLASSES))]
    annotations = [[{"category_id": one} for one in classes] for classes in of_images]
    return AnnotatedSet.of_records(images, categories, annotations, is_federated=False)


def chosen_ids(annotated: AnnotatedSet, fraction: float, seed: int = 0) -> set[int | str]:
    ids = annotated.images.ids()
    return {ids[row] for row in portion_rows(annotated, fraction, seed).tolist()}


@given(image_classes, fractions, seeds)
def test_sizes_are_exact_and_no_class_vanishes_if_there_is_room(
    of_images: list[list[int]], fraction: float, seed: int
) -> None:
    annotated = annotated_set(of_images)
    rows = portion_rows(annotated, fraction, seed)
    assert len(rows) == int(Fraction(str(fraction)) * len(of_images))
    assert (np.diff(rows) > 0).all()
    assert set(rows.tolist()) <= set(range(len(of_images)))
    shown = {one for classes in of_images for one in classes}
    if len(rows) >= len(shown):
        assert {one for row in rows for one in of_images[row]} == shown


@given(image_classes, fractions, fractions, seeds)
def test_smaller_portions_are_part_of_larger_ones(
    of_images: list[list[int]], one: float, other: float, seed: int
) -> None:
    annotated = annotated_set(of_images)
    small, large = (chosen_ids(annotated, fraction, seed) for fraction in sorted((one, other)))
    assert small <= large


@given(image_classes, fractions, seeds, st.randoms(use_true_random=False))
def test_the_order_of_images_and_annotations_does_not_matter(
    of_images: list[list[int]], fraction: float, seed: int, random: np.random.Generator
) -> None:
    ids = list(range(len(of_images)))
    random.shuffle(ids)
    shuffled = [random.sample(of_images[one], len(of_images[one])) for one in ids]
    before = chosen_ids(annotated_set(of_images), fraction, seed)
    assert chosen_ids(annotated_set(shuffled, ids), fraction, seed) == before


@given(image_classes, fractions, seeds)
def test_no_class_falls_far_behind(of_images: list[list[int]], fraction: float, seed: int) -> None:
    """Each image is taken for a class c whose share is the lowest, s. So c gets at most s * n_c + 1 images in this way.

    Summed over classes, s is at least (images of the portion - classes) / sum of n_c.
    """
    rows = portion_rows(annotated_set(of_images), fraction, seed)
    shown = [set(one) or {-1} for one in of_images]
    counts = Counter(one for classes in shown for one in classes)
    taken = Counter(one for row in rows for one in shown[row])
    lowest = min(taken[one] / num for one, num in counts.items())
    assert lowest >= (len(rows) - len(counts)) / counts.total() - 1e-9


@pytest.mark.parametrize("percent", [1, 2, 5, 10])
def test_a_long_tail_keeps_its_shape(percent: int) -> None:
    """No class is lost, and the others are nearer to their share than in images that are drawn blindly."""
    weights = 1.0 / np.arange(1, 41)
    drawn = draw_classes(20_000, weights / weights.sum(), 3, np.random.default_rng(0))
    annotated = annotated_set([sorted(set(one)) for one in drawn])
    share = annotated.class_image_counts() * percent / 100

    def error(rows: np.ndarray) -> float:
        return float((((annotated.subset(rows).class_image_counts() - share) ** 2) / share).sum())

    rows = portion_rows(annotated, percent / 100, 0)
    assert annotated.subset(rows).class_image_counts().min() >= 1
    rng = np.random.default_rng(1)
    blind = [error(rng.choice(len(annotated), len(rows), replace=False)) for _ in range(20)]
    assert error(rows) < min(blind)


def test_crowd_regions_and_images_without_objects_count_as_no_class() -> None:
    images = [ImageRecord(image_id=one, file_name=f"{one}", uri="", height=1, width=1) for one in range(100)]
    objects = [[{"category_id": 1, "iscrowd": 1}]] * 80 + [[{"category_id": 1}]] * 20
    annotated = AnnotatedSet.of_records(images, [Category(category_id=1, name="a")], objects, is_federated=False)
    assert sum(row >= 80 for row in portion_rows(annotated, 0.1, 0)) == 2


def test_seeds_matter_and_a_portion_is_the_same_on_every_machine() -> None:
    annotated = annotated_set([[one % 5] for one in range(40)])
    assert chosen_ids(annotated, 0.2) != chosen_ids(annotated, 0.2, seed=1)
    assert sorted(chosen_ids(annotated, 0.2)) == KNOWN


KNOWN = [5, 9, 10, 16, 17, 21, 22, 38]
