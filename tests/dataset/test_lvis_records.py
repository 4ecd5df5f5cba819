"""Federated fields of real LVIS records survive reading, writing and splitting, and matching honours them."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raylabel.calibration import FitContext, ImagePredictions, federated_accuracy, match_set
from raylabel.dataset.annotations import AnnotatedSet, read_annotations
from raylabel.dataset.frequency import frequency_groups
from raylabel.dataset.splits import split_by_hash
from raylabel.masks.rle import encode_masks
from raylabel.predictions.matching import Outcome, verification_weights

FIELDS = ("neg_category_ids", "not_exhaustive_category_ids")


@pytest.fixture(scope="module")
def records(shared_data: Callable[[str], Path]) -> dict[str, Any]:
    return json.loads((shared_data("lvis_reference") / "lvis_val_100.json").read_text())


@pytest.fixture(scope="module")
def annotated(shared_data: Callable[[str], Path]) -> AnnotatedSet:
    return read_annotations(str(shared_data("lvis_reference") / "lvis_val_100.json"))


def federated_fields(content: dict[str, Any]) -> dict[int, tuple[list[int], ...]]:
    """Federated fields by image. The lists are sorted, because their order has no meaning."""
    return {image["id"]: tuple(sorted(image[name]) for name in FIELDS) for image in content["images"]}


def test_fields_survive_reading_and_writing(records: dict[str, Any], annotated: AnnotatedSet, tmp_path: Path) -> None:
    written = annotated.to_json()
    assert federated_fields(written) == federated_fields(records)
    assert sum(len(image["neg_category_ids"]) for image in written["images"]) == 942
    assert sum(len(image["not_exhaustive_category_ids"]) for image in written["images"]) == 16
    assert {one["id"]: one for one in written["annotations"]} == {one["id"]: one for one in records["annotations"]}
    path = tmp_path / "again.json"
    path.write_text(json.dumps(written))
    again = read_annotations(str(path))
    assert again.is_federated
    assert again.to_json() == written


def test_fields_survive_splitting(records: dict[str, Any], annotated: AnnotatedSet) -> None:
    parts = split_by_hash(annotated, {"calibration": 0.3, "validation": 0.3}, 0)
    found: dict[int, tuple[list[int], ...]] = {}
    for part in parts.values():
        assert part.is_federated
        found |= federated_fields(part.to_json())
    assert found == federated_fields(records)


def test_category_frequencies_are_kept(records: dict[str, Any], annotated: AnnotatedSet) -> None:
    theirs = {one["id"]: one["frequency"] for one in records["categories"]}
    assert {one.category_id: one.frequency for one in annotated.categories} == theirs


def test_groups_of_a_fit_are_those_of_the_training_set(records: dict[str, Any], annotated: AnnotatedSet) -> None:
    """If one category declares no group, all groups come from the 100 images, and every class is rare."""
    theirs = {one["id"]: one["frequency"] for one in records["categories"]}
    groups = FitContext.of(annotated).frequency_groups
    assert dict(zip(annotated.category_ids.tolist(), groups.tolist(), strict=True)) == theirs
    without = replace(
        annotated, categories=(replace(annotated.categories[0], frequency=None), *annotated.categories[1:])
    )
    assert set(FitContext.of(without).frequency_groups) == {"r"}


def test_frequency_groups_of_the_real_long_tail(shared_data: Callable[[str], Path]) -> None:
    categories = json.loads((shared_data("lvis_reference") / "lvis_v1_train_cat_info.json").read_text())
    found = frequency_groups(np.array([one["image_count"] for one in categories], np.int64))
    assert found.tolist() == [one["frequency"] for one in categories]
    assert Counter(found.tolist()) == {"r": 337, "c": 461, "f": 405}


def test_matching_honours_real_records(records: dict[str, Any], annotated: AnnotatedSet) -> None:
    """Predictions equal to the truth are all correct. A prediction of an absent class is wrong only where it was
    verified."""
    truths = [annotated.ground_truth(row) for row in range(len(annotated))]
    perfect = {
        row: ImagePredictions(truth.class_indices, np.full(len(truth), 0.9), truth.masks)
        for row, truth in enumerate(truths)
    }
    found = match_set(annotated, perfect)
    assert (found.known_outcomes == Outcome.CORRECT).all()
    np.testing.assert_allclose(found.weights, 1)
    accuracy = federated_accuracy(found, annotated).accuracy
    assert set(accuracy[np.isfinite(accuracy)]) == {1.0}

    everything = np.arange(annotated.num_classes)
    for row, image in enumerate(records["images"][:10]):
        shown = {one["category_id"] for one in records["annotations"] if one["image_id"] == image["id"]}
        pixel_HW = np.zeros(annotated.images[row].image_size_hw, dtype=bool)
        pixel_HW[0, 0] = True
        pixels = encode_masks(pixel_HW[None]) * len(everything)
        found = match_set(annotated, {row: ImagePredictions(everything, np.full(len(everything), 0.5), pixels)})
        assert not found.is_correct.any()
        expected = (shown - set(image["not_exhaustive_category_ids"])) | set(image["neg_category_ids"])
        assert set(annotated.category_ids[found.is_scored].tolist()) == expected


def test_verified_images_are_counted_as_in_the_records(records: dict[str, Any], annotated: AnnotatedSet) -> None:
    num_verified = Counter(one for image in records["images"] for one in image["neg_category_ids"])
    num_images = Counter(
        category_id for _, category_id in {(one["image_id"], one["category_id"]) for one in records["annotations"]}
    )
    weights = verification_weights(annotated)
    for category_id, index in annotated.class_index_of.items():
        expected = (100 - num_images[category_id]) / num_verified[category_id] if num_verified[category_id] else 1.0
        assert weights[index] == pytest.approx(max(expected, 1.0))
