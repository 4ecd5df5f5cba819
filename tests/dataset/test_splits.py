"""Splits by hash are partitions, and stay stable when images are added."""

from itertools import chain

import numpy as np
import pytest

from raylabel.dataset.annotations import AnnotatedSet, Category, ImageRecord
from raylabel.dataset.splits import split_by_hash
from raylabel.errors import InputError

FRACTIONS = {"calibration": 0.2, "val": 0.3}

KNOWN = {"labelled": [0, 1, 7, 8, 9, 10, 11, "12", "a/é.jpg"], "calibration": [4], "val": [2, 3, 5, 6]}


def annotated_set(image_ids):
    images = tuple(ImageRecord(image_id=one, file_name="", uri="", height=1, width=1) for one in image_ids)
    categories = (Category(category_id=1, name="a"),)
    return AnnotatedSet.of_records(
        images=images, categories=categories, annotations=((),) * len(images), is_federated=False
    )


def ids(parts):
    return {name: [image.image_id for image in part.images] for name, part in parts.items()}


def test_parts_are_a_partition_of_the_right_sizes():
    parts = ids(split_by_hash(annotated_set(range(2000)), FRACTIONS, seed=0))
    assert list(parts) == ["labelled", "calibration", "val"]
    assert sorted(chain(*parts.values())) == list(range(2000))
    # Four standard deviations of a binomial with n = 2000.
    for name, fraction in (FRACTIONS | {"labelled": 0.5}).items():
        assert abs(len(parts[name]) - 2000 * fraction) < 4 * np.sqrt(2000 * fraction * (1 - fraction))


def test_adding_images_moves_none():
    before = ids(split_by_hash(annotated_set(range(0, 300, 3)), FRACTIONS, seed=5))
    after = ids(split_by_hash(annotated_set(range(299, -1, -1)), FRACTIONS, seed=5))
    for name, image_ids in before.items():
        assert set(image_ids) <= set(after[name])


def test_known_parts():
    """The hash is part of the contract, because a run resumed on another machine must find the same split."""
    parts = ids(split_by_hash(annotated_set([*range(12), "12", "a/é.jpg"]), FRACTIONS, seed=1))
    assert parts == KNOWN


def test_images_of_an_unused_part_join_the_rest_and_no_other_moves():
    annotated = annotated_set([*range(12), "12", "a/é.jpg"])
    parts = ids(split_by_hash(annotated, FRACTIONS, seed=1, unused=["calibration"]))
    assert parts["val"] == KNOWN["val"]
    assert set(parts["labelled"]) == {*KNOWN["labelled"], *KNOWN["calibration"]}
    assert list(parts) == ["labelled", "val"]


def test_seed_matters():
    annotated = annotated_set(range(200))
    assert ids(split_by_hash(annotated, FRACTIONS, 0)) != ids(split_by_hash(annotated, FRACTIONS, 1))


@pytest.mark.parametrize(
    "fractions", [{"val": 0.0}, {"val": 1.0}, {"val": -0.1}, {"a": 0.5, "b": 0.5}, {"labelled": 0.5}]
)
def test_bad_fractions(fractions):
    with pytest.raises(InputError, match="fractions must be in"):
        split_by_hash(annotated_set(range(10)), fractions, 0)


def test_empty_part():
    with pytest.raises(InputError, match="'val' got no image"):
        split_by_hash(annotated_set(range(10)), {"val": 1e-9}, 0)
