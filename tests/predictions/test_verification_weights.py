"""The weights of verified mistakes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raylabel.dataset.annotations import AnnotatedSet, read_annotations
from raylabel.predictions.matching import detection_weights, verification_weights
from squares import CORRECT, IGNORED, INCORRECT


def federated_set(tmp_path: Path) -> AnnotatedSet:
    """Make 10 images: class 0 in 2 and verified absent in 4, class 1 in 1 and never verified, class 2 in none."""
    negatives = {2: [10], 3: [10], 4: [10], 5: [10], 6: [12]}
    square = [[0, 0, 0, 5, 5, 5, 5, 0]]
    annotations = [(0, 10), (0, 10), (1, 10), (1, 11)]
    content = {
        "images": [
            {
                "id": image,
                "file_name": f"{image}.jpg",
                "height": 20,
                "width": 20,
                "neg_category_ids": negatives.get(image, []),
                "not_exhaustive_category_ids": [],
            }
            for image in range(10)
        ],
        "categories": [{"id": one, "name": str(one)} for one in (10, 11, 12)],
        "annotations": [
            {"id": place, "image_id": image, "category_id": category, "segmentation": square, "bbox": [0, 0, 5, 5]}
            | {"area": 25, "iscrowd": 0}
            for place, (image, category) in enumerate(annotations, start=1)
        ],
    }
    path = tmp_path / "federated.json"
    path.write_text(json.dumps(content))
    return read_annotations(str(path))


def test_verification_weights(tmp_path: Path) -> None:
    # Class 0: (10 - 2) / 4. Class 1: never verified. Class 2: (10 - 0) / 1.
    assert verification_weights(federated_set(tmp_path)).tolist() == [2.0, 1.0, 10.0]


def test_a_class_that_is_listed_as_absent_beside_its_objects_keeps_weight_one(tmp_path: Path) -> None:
    """Such lists contradict the annotations. Ten images are verified to be without the class, and eight are."""
    annotated = federated_set(tmp_path)
    images = [replace(image, negative_classes=frozenset([0])) for image in annotated.images]
    verified = AnnotatedSet.of_records(images, annotated.categories, annotated.annotations, is_federated=False)
    assert verification_weights(verified).tolist() == [1.0, 1.0, 1.0]


def test_fully_annotated_sets_have_weight_one(shared_data: Callable[[str], Path]) -> None:
    annotated = read_annotations(str(shared_data("external_detector") / "instances.json"))
    assert verification_weights(annotated).tolist() == [1.0] * 80


def test_only_mistakes_that_negative_classes_verified_are_weighted() -> None:
    weights = detection_weights(
        np.array([INCORRECT, INCORRECT, CORRECT, IGNORED], dtype=np.int8),
        np.array([0, 1, 0, 0]),
        np.array([2.0, 3.0]),
        np.array([1]),
    )
    assert weights.tolist() == [2.0, 1.0, 1.0, 1.0], "class 1 is annotated in the image: its mistakes count once"


def test_weights_undo_federated_selection() -> None:
    """Accuracy from verified mistakes alone is too high. With weights it is right on average."""
    rng = np.random.default_rng(0)
    num_images, is_present = 4000, rng.random(4000) < 0.2
    is_verified = ~is_present & (rng.random(num_images) < 0.1)
    # One detection per image, correct exactly if the image has the object.
    weight = (num_images - is_present.sum()) / is_verified.sum()
    naive = is_present.sum() / (is_present.sum() + is_verified.sum())
    outcomes = np.where(is_present, CORRECT, INCORRECT)[is_present | is_verified]
    weights = np.concatenate(
        [
            detection_weights(
                np.array([one], np.int8), np.array([0]), np.array([weight]), frozenset({0} if one else ())
            )
            for one in outcomes
        ]
    )
    weighted = weights[outcomes == CORRECT].sum() / weights.sum()
    assert naive > 0.6
    assert weighted == pytest.approx(is_present.mean(), abs=1e-9)
