"""The table of figures by frequency, size and class."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.calibration import Detections, ReliabilityBins
from raylabel.calibration.metrics import (
    adaptive_ece,
    brier,
    ccece,
    class_ccece,
    class_mce,
    d_ece,
    ece,
    figures_by_group,
    mce,
    nll,
    pooled_average_precision,
    size_groups,
    yield_at_precision,
)

LETTERS = np.array(["r", "f", "c", "r", "f"])
COUNTS = ("num_detections", "num_correct", "num_ignored")


def made(seed: int, num: int, *, classes: int = 4) -> Detections:
    """Generate weighted detections of the first `classes` of 5 classes, some of them ignored."""
    rng = np.random.default_rng(seed)
    scores = rng.random(num)
    outcomes = np.where(rng.random(num) < 0.15, 2, rng.random(num) < scores).astype(np.int8)
    return Detections(
        num_classes=5,
        class_indices=rng.integers(0, classes, num).astype(np.int32),
        raw_scores=scores,
        image_indices=rng.integers(0, 10, num),
        outcomes=outcomes,
        weights=np.where(outcomes == 0, rng.choice([1.0, 2.5], num), 1.0),
    )


def test_sizes_are_cocos() -> None:
    areas = [0, 32**2 - 1, 32**2, 96**2 - 1, 96**2, 1e7]
    assert size_groups(areas).tolist() == ["small", "small", "medium", "medium", "large", "large"]
    for wrong in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="mask_areas must be finite and >= 0"):
            size_groups([wrong])


def test_by_hand() -> None:
    # Class 0 (rare): 0.9 right in image 0, 0.6 wrong of weight 2 in image 1, one ignored.
    # Class 1 (frequent): 0.4 wrong.
    detections = Detections(
        num_classes=2,
        class_indices=np.array([0, 0, 0, 1], dtype=np.int32),
        raw_scores=np.array([0.9, 0.6, 0.8, 0.4]),
        image_indices=np.array([0, 1, 1, 1]),
        outcomes=np.array([1, 0, 2, 0], dtype=np.int8),
        weights=np.array([1.0, 2.0, 5.0, 1.0]),
    )
    table = figures_by_group(
        detections,
        group_by="frequency",
        frequency_groups=np.array(["r", "f"]),
        num_bins=2,
        object_classes=[0, 0, 1],
    )
    assert list(table) == ["all", "r", "f"], "there is no common class"
    expected = {
        "num_detections": 2,
        "num_effective": 3**2 / (1 + 4),
        "num_correct": 1,
        "num_ignored": 1,
        "num_images": 2,
        "num_classes": 1,
        "num_objects": 2,
        "mean_score": (0.9 + 2 * 0.6) / 3,
        "accuracy": 1 / 3,
        "bias": 1.1 / 3,
        "ece": 1.1 / 3,
        "mce": 1.1 / 3,
        "nll": -(np.log(0.9) + 2 * np.log(0.4)) / 3,
        "brier": (0.1**2 + 2 * 0.6**2) / 3,
        "ap_pool": 51 / 101,
        "yield_recall": 0.5,
        "yield_threshold": 0.9,
        "d_ece": None,
    }
    assert {name: table["r"][name] for name in expected} == pytest.approx(expected)
    assert table["all"]["num_classes"] == 2
    assert table["all"]["ccece"] == pytest.approx((1.1 / 3 + 0.4) / 2)
    assert table["f"]["yield_threshold"] is None
    assert table["f"]["yield_recall"] == 0.0


def check_group(row: dict[str, Any], part: Detections, scores: np.ndarray, num_objects: int | None) -> None:
    judged, kept = part.scored(), scores[part.is_scored]
    bins = ReliabilityBins.from_detections(judged, 15, kept)
    assert row["num_detections"] == len(judged)
    assert row["ece"] == pytest.approx(ece(bins))
    assert row["ece_debiased"] == pytest.approx(ece(bins, debiased=True))
    assert row["adaptive_ece"] == pytest.approx(adaptive_ece(judged, 15, kept))
    assert row["mce"] == pytest.approx(mce(bins))
    assert row["ccece"] == pytest.approx(ccece(bins))
    assert row["nll"] == pytest.approx(nll(kept, judged.is_correct, judged.weights))
    assert row["brier"] == pytest.approx(brier(kept, judged.is_correct, judged.weights))
    if num_objects is None:
        assert row["ap_pool"] is row["yield_recall"] is row["yield_threshold"] is None
    else:
        ranking = kept, judged.is_correct, num_objects
        assert row["ap_pool"] == pytest.approx(pooled_average_precision(*ranking, weights=judged.weights))
        assert row["yield_recall"] == pytest.approx(yield_at_precision(*ranking, weights=judged.weights).recall)


def test_every_group_has_the_figures_of_its_detections() -> None:
    detections, rng = made(0, 400), np.random.default_rng(1)
    scores, features, areas = rng.random(400), rng.random((400, 2)), rng.random(400) * 2e4
    objects = np.concatenate([detections.class_indices[detections.is_correct], [0, 1, 2, 3, 4, 4]])
    given_all: dict[str, Any] = {"scores": scores, "object_classes": objects}

    table = figures_by_group(detections, group_by="frequency", frequency_groups=LETTERS, features=features, **given_all)
    assert list(table) == ["all", "r", "c", "f"]
    check_group(table["all"], detections, scores, len(objects))
    for letter in "rcf":
        rows = LETTERS[detections.class_indices] == letter
        check_group(table[letter], detections.subset(rows), scores[rows], int((LETTERS[objects] == letter).sum()))
        judged = rows & detections.is_scored
        assert table[letter]["d_ece"] == pytest.approx(
            d_ece(scores[judged], detections.is_correct[judged], features[judged], weights=detections.weights[judged])
        )

    table = figures_by_group(detections, group_by="size", mask_areas=areas, **given_all)
    assert list(table) == ["all", "small", "medium", "large"]
    of_their_own = replace(detections, mask_areas=areas.astype(np.int32))
    assert figures_by_group(of_their_own, group_by="size", **given_all) == table
    check_group(table["all"], detections, scores, len(objects))
    for name in ("small", "medium", "large"):
        rows = size_groups(areas) == name
        check_group(table[name], detections.subset(rows), scores[rows], None)

    names = ["ant", "bee", "cat", "dog", "eel"]
    table = figures_by_group(detections, group_by="class", class_names=names, **given_all)
    assert list(table) == names
    bins = ReliabilityBins.from_detections(detections, 15, scores)
    for index, name in enumerate(names[:4]):
        rows = detections.class_indices == index
        check_group(table[name], detections.subset(rows), scores[rows], int((objects == index).sum()))
        assert table[name]["ccece"] == table[name]["ece"] == pytest.approx(class_ccece(bins)[index])
        assert table[name]["mce"] == pytest.approx(class_mce(bins)[index])
    assert table["eel"]["num_detections"] == 0
    assert table["eel"]["num_objects"] == 2
    assert table["eel"]["ap_pool"] == table["eel"]["yield_recall"] == 0.0, "two objects, none found"
    assert {table["eel"][name] for name in ("ece", "mce", "nll", "ccece", "bias", "yield_threshold")} == {None}


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(0, 25), st.integers(1, 4))
def test_no_nan_and_counts_add_up(seed: int, num: int, classes: int) -> None:
    """Few, no and only ignored detections give JSON without NaN."""
    detections = made(seed, num, classes=classes)
    areas = np.random.default_rng(seed).random(num) * 2e4
    for grouping in (
        {"group_by": "frequency", "frequency_groups": LETTERS},
        {"group_by": "size", "mask_areas": areas},
        {"group_by": "class"},
    ):
        table = figures_by_group(detections, features=areas[:, None] / 2e4, **grouping)
        json.dumps(table, allow_nan=False)
        assert len({tuple(row) for row in table.values()}) == 1, "the same figures for every group"
        for row in table.values():
            has_any = row["num_detections"] > 0
            assert has_any == all(row[name] is not None for name in ("ece", "nll", "d_ece", "ccece", "rmsce_debiased"))
            assert row["ap_pool"] is None
        for count in COUNTS:
            total = sum(row[count] for name, row in table.items() if name != "all")
            assert total == figures_by_group(detections, group_by="size", mask_areas=areas)["all"][count]


def test_classes_below_the_minimum_leave_the_means_alone() -> None:
    table = figures_by_group(made(0, 12), group_by="class", min_count=1000)
    assert table["0"]["ccece"] is table["0"]["mean_class_bias"] is None
    assert table["0"]["ece"] is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"group_by": "colour"}, "group_by must be frequency, size or class, got 'colour'"),
        ({"group_by": "size"}, "mask_areas must be given"),
        ({"group_by": "size", "mask_areas": [1.0]}, r"mask_areas must have shape \(9,\)"),
        ({"group_by": "frequency"}, "frequency_groups must be given"),
        ({"group_by": "frequency", "frequency_groups": LETTERS[:3]}, r"frequency_groups must have shape \(5,\)"),
        ({"group_by": "frequency", "frequency_groups": np.array(list("rcfxy"))}, "frequency_groups must be r, c or f"),
        ({"group_by": "class", "class_names": ["a"] * 5}, "class_names must be 5 different names"),
        ({"group_by": "class", "scores": np.zeros(3)}, r"scores must have shape \(9,\)"),
        ({"group_by": "class", "features": np.zeros(9)}, r"features must have shape \(9, K\)"),
        ({"group_by": "class", "object_classes": [5]}, "object_classes must be in 0 to 4"),
    ],
)
def test_wrong_input_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        figures_by_group(made(0, 9), **arguments)
