"""The classes that take part in the class loss of a federated image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.config import FederatedLossConfig
from raylabel.dataset.annotations import AnnotatedSet, Category, ImageRecord
from raylabel.errors import InputError
from raylabel.training.federated import FederatedClasses, federated_classes

NUM_CLASSES = 6


def a_set(image_classes: list[list[int]], negatives: list[list[int]], *, is_federated: bool = True) -> AnnotatedSet:
    """Make a set with one box per class and image. Class index c has the id 10 + c. The last class has no image."""
    return AnnotatedSet.of_records(
        images=tuple(
            ImageRecord(
                image_id=row,
                file_name=f"{row}.jpg",
                uri=f"{row}.jpg",
                height=8,
                width=8,
                negative_classes=frozenset(of_image),
            )
            for row, of_image in enumerate(negatives)
        ),
        categories=tuple(Category(category_id=10 + index, name=str(index)) for index in range(NUM_CLASSES)),
        annotations=tuple(
            tuple({"category_id": 10 + index, "iscrowd": int(index == 4)} for index in of_image)
            for of_image in image_classes
        ),
        is_federated=is_federated,
    )


FEDERATED = a_set([[0, 1], [0], [0], [0], [0, 2], [4]], [[3], [], [1, 2], [], [], []])


def test_without_a_draw_only_what_was_looked_for_takes_part() -> None:
    classes = FederatedClasses(FEDERATED, FederatedLossConfig(enabled=True, num_classes=0))
    rng = np.random.default_rng(0)
    assert np.flatnonzero(classes.draw(0, rng)).tolist() == [0, 1, 3, 6], "annotated, verified absent, background"
    assert np.flatnonzero(classes.draw(3, rng)).tolist() == [0, 6]
    assert np.flatnonzero(classes.draw(5, rng)).tolist() == [4, 6], "a crowd region says that the class is there"


@settings(max_examples=30, deadline=None)
@given(row=st.integers(0, 5), num_classes=st.integers(0, 8), seed=st.integers(0, 99))
def test_the_draw_fills_up_and_takes_nothing_away(row: int, num_classes: int, seed: int) -> None:
    draw = FederatedClasses(FEDERATED, FederatedLossConfig(enabled=True, num_classes=num_classes)).draw
    strict = FederatedClasses(FEDERATED, FederatedLossConfig(enabled=True, num_classes=0))
    known = strict.draw(row, np.random.default_rng(seed))
    mask = draw(row, np.random.default_rng(seed))
    assert mask[-1]
    assert mask[known].all()
    assert np.array_equal(mask, draw(row, np.random.default_rng(seed)))
    # Only classes 0, 1 and 2 can be drawn, because only they have images that count.
    drawable = np.flatnonzero(~known[:3])
    assert mask.sum() == known.sum() + np.clip(num_classes - (known.sum() - 1), 0, len(drawable))
    assert np.isin(np.flatnonzero(mask & ~known), drawable).all()


def test_classes_are_drawn_by_the_power_of_their_frequency() -> None:
    # Image 5 shows class 4. Class 0 is in 5 images, classes 1 and 2 are in one each. With power 1: 5/7, 1/7, 1/7.
    classes = FederatedClasses(FEDERATED, FederatedLossConfig(enabled=True, num_classes=2, power=1.0))
    rng = np.random.default_rng(0)
    drawn = np.mean([classes.draw(5, rng)[:3] for _ in range(3000)], axis=0)
    np.testing.assert_allclose(drawn, [5 / 7, 1 / 7, 1 / 7], atol=0.03)


def test_a_set_in_which_every_class_was_looked_for_is_refused() -> None:
    full = a_set([[0]], [[]], is_federated=False)
    with pytest.raises(InputError, match=r"federated_loss.enabled needs data.labelled with neg_category_ids"):
        federated_classes(full, FederatedLossConfig(enabled=True))
    assert federated_classes(full, FederatedLossConfig()) is None
