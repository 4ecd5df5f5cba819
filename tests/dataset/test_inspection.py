"""What an annotated set means: each kind of annotation that an exporter gets wrong is counted, others are not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.dataset.annotated_set import AnnotatedSet, Category
from raylabel.dataset.image_records import ImageRecord
from raylabel.dataset.inspection import Inspection, inspect_annotations
from raylabel.masks.rle import mask_areas
from raylabel.masks.segmentation import rle_from_segmentation

HEIGHT, WIDTH = 40, 60
SQUARE = [[10, 10, 20, 10, 20, 20, 10, 20]]


def a_set(*annotations: dict, file_names: tuple[str, ...] = ("a.jpg",)) -> AnnotatedSet:
    """Return a set of two classes. All annotations lie on the first image."""
    images = [
        ImageRecord(image_id=number, file_name=name, uri=name, height=HEIGHT, width=WIDTH)
        for number, name in enumerate(file_names)
    ]
    filled = tuple({"category_id": 1, "segmentation": SQUARE, **one} for one in annotations)
    return AnnotatedSet.of_records(
        images=tuple(images),
        categories=(Category(category_id=1, name="disc"), Category(category_id=2, name="box")),
        annotations=(filled, *[()] * (len(images) - 1)),
        is_federated=False,
    )


def counts(found: Inspection) -> dict[str, int]:
    names = ("annotations", "learnable", "crowd", "empty", "normalised", "other_box", "outside")
    return {name: num for name in names if (num := getattr(found, f"num_{name}"))}


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ({}, {"learnable": 1}),
        ({"bbox": [10, 10, 10, 10]}, {"learnable": 1}),
        ({"bbox": [9, 9, 12, 12]}, {"learnable": 1}),
        ({"iscrowd": 1}, {"crowd": 1}),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}}, {"empty": 1}),
        ({"segmentation": [[0.2, 0.2, 0.4, 0.2, 0.4, 0.4]]}, {"empty": 1, "normalised": 1}),
        (
            {"segmentation": [[0.2, 0.2, 0.4, 0.2, 0.4, 0.4]], "bbox": [10, 10, 10, 10]},
            {"empty": 1, "normalised": 1},
        ),
        ({"bbox": [0.2, 0.2, 0.4, 0.4]}, {"normalised": 1, "other_box": 1}),
        ({"bbox": [10, 10, 20, 20]}, {"learnable": 1, "other_box": 1}),
        ({"bbox": [20, 20, 20, 20]}, {"learnable": 1, "other_box": 1}),
        ({"bbox": [10, 10, 80, 10]}, {"learnable": 1, "other_box": 1, "outside": 1}),
        ({"segmentation": [[-5, 10, 20, 10, 20, 20, -5, 20]]}, {"learnable": 1, "outside": 1}),
        ({"bbox": [10, 10, 0.5, 10]}, {"other_box": 1}),
    ],
)
def test_each_kind_is_counted(annotation: dict, expected: dict[str, int]) -> None:
    assert counts(inspect_annotations(a_set(annotation))) == {"annotations": 1, **expected}


def test_classes_of_which_nothing_is_learnt_are_named() -> None:
    found = inspect_annotations(a_set({}, {"category_id": 2, "iscrowd": 1}))
    assert found.lost_classes == ("box",)
    assert found.remarks() == [
        "1 of 2 annotations are crowd regions, which are not learnt",
        "1 classes have annotations, and none is learnt: box",
    ]


def test_a_sound_set_has_no_remark() -> None:
    assert inspect_annotations(a_set({}, {"category_id": 2})).remarks() == []


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-10, WIDTH + 10), st.floats(-10, HEIGHT + 10)), min_size=3, max_size=8),
    st.floats(0.01, 1),
)
def test_empty_masks_are_told_from_others_without_drawing_most(points: list[tuple[float, float]], size: float) -> None:
    polygon = (np.array(points) * size).ravel().tolist()
    found = inspect_annotations(a_set({"segmentation": [polygon]}))
    drawn = rle_from_segmentation([polygon], (HEIGHT, WIDTH))
    assert found.num_empty == (mask_areas([drawn])[0] == 0)
