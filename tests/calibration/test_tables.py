"""The stored tables agree with the detections and handle an unseen class."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from raylabel.calibration import (
    ClassAccuracy,
    Detections,
    FitContext,
    ReliabilityBins,
    calibration_tables,
    fit_corrector,
    image_folds,
    out_of_fold_scores,
)
from raylabel.calibration.metrics import ccece, ece
from raylabel.calibration.tables import CalibrationTables
from raylabel.schema import BINS, CLASSES, DETECTIONS

CONTEXT = FitContext(num_bins=10, frequency_groups=np.array(["r", "c", "f"]))


def made(num: int) -> Detections:
    """Generate detections without any of class 0."""
    rng = np.random.default_rng(0)
    return Detections(
        num_classes=3,
        class_indices=rng.integers(1, 3, num).astype(np.int32),
        raw_scores=rng.random(num),
        image_indices=rng.integers(0, 20, num),
        outcomes=rng.integers(0, 3, num).astype(np.int8),
        weights=rng.choice([1.0, 4.0], num),
    )


def tables_of(detections: Detections, kind: str = "hierarchical") -> CalibrationTables:
    return calibration_tables(
        detections,
        corrector=fit_corrector(kind, detections, context=CONTEXT),
        context=CONTEXT,
        image_ids=[f"image {index}" for index in range(20)],
        class_names=["a", "b", "c"],
        category_ids=[7, 8, 9],
        num_train_images=[0, 50, 200],
    )


def test_tables_follow_the_schemas_and_agree() -> None:
    detections = made(300)
    tables = tables_of(detections)
    for table, schema in ((tables.detections, DETECTIONS), (tables.bins, BINS), (tables.classes, CLASSES)):
        assert table.schema.equals(schema)
    assert tables.detections["image_id"][0].as_py() == f"image {detections.image_indices[0]}"
    stored = Detections(
        num_classes=3,
        class_indices=tables.detections["class_index"].to_numpy(),
        raw_scores=tables.detections["raw_score"].to_numpy().astype(np.float64),
        image_indices=detections.image_indices,
        outcomes=tables.detections["outcome"].to_numpy(),
        weights=tables.detections["weight"].to_numpy().astype(np.float64),
    )
    again, bins = ReliabilityBins.from_detections(stored, 10), ReliabilityBins.from_table(tables.bins)
    np.testing.assert_allclose(again.num, bins.num, err_msg="bins made again from the stored table")
    np.testing.assert_allclose(again.sum_confidence, bins.sum_confidence, rtol=1e-5)


def test_a_class_without_detections_is_null() -> None:
    rows = tables_of(made(300)).classes.to_pylist()
    assert rows[0] == {
        "class_index": 0,
        "category_id": 7,
        "name": "a",
        "frequency_group": "r",
        "num_train_images": 0,
        "num_detections": 0,
        "num_effective": 0.0,
    } | dict.fromkeys(["accuracy", "accuracy_low", "accuracy_high", "bias", "ccece", "ccece_calibrated"])
    for row in rows[1:]:
        assert row["accuracy_low"] < row["accuracy"] < row["accuracy_high"]
        assert abs(row["bias"]) <= row["ccece"] + 1e-12
        assert row["num_effective"] < row["num_detections"], "weights differ"


@pytest.mark.parametrize("kind", ["auto", "ccece"])
def test_summary_is_plain_and_counts_add_up(kind: str) -> None:
    summary = tables_of(made(300), kind).summary
    json.dumps(summary, allow_nan=False)
    assert (
        summary["num_correct"] + summary["num_incorrect"] + summary["num_ignored"] == summary["num_detections"] == 300
    )
    assert summary["groups"]["all"]["num_classes_with_detections"] == 2
    assert summary["raw"]["ccece"]["r"] is None
    assert summary["raw"]["ccece"]["all"] == pytest.approx(
        (summary["raw"]["ccece"]["c"] + summary["raw"]["ccece"]["f"]) / 2
    )


def test_no_detection_is_no_error() -> None:
    tables = tables_of(Detections.empty(3), "auto")
    assert tables.detections.num_rows == tables.bins.num_rows == 0
    assert tables.summary["raw"]["nll"] is None
    assert tables.summary["corrector_chosen"] == "none"
    json.dumps(tables.summary, allow_nan=False)


def test_figures_after_correction_are_out_of_fold() -> None:
    """The bins and every figure come from correctors that were fitted without the detection's images."""
    detections = made(300)
    tables = tables_of(detections, "isotonic_per_class")
    folds = image_folds(detections.image_indices, seed=CONTEXT.seed)
    scores = out_of_fold_scores(detections, folds, partial(fit_corrector, "isotonic_per_class", context=CONTEXT))
    bins = ReliabilityBins.from_detections(detections, 10, scores)
    np.testing.assert_array_equal(tables.cross_validated_bins.num, bins.num)
    held_out = tables.summary["calibrated_cross_validated"]
    rows = detections.is_scored
    losses = -np.log(np.where(detections.is_correct, scores, 1 - scores))[rows]
    assert held_out["nll"] == pytest.approx(np.average(losses, weights=detections.weights[rows]))
    squares = ((scores - detections.is_correct) ** 2)[rows]
    assert held_out["brier"] == pytest.approx(np.average(squares, weights=detections.weights[rows]))
    assert held_out["ece"] == pytest.approx(ece(bins))
    assert held_out["ccece"]["all"] == pytest.approx(ccece(bins))
    assert [row["ccece_calibrated"] for row in tables.classes.to_pylist()[1:]] == pytest.approx(
        [ccece(bins.of_classes(np.array([index]))) for index in (1, 2)]
    )


def test_raw_figures_are_those_of_the_raw_scores() -> None:
    detections = made(300)
    raw, rows = tables_of(detections).summary["raw"], detections.is_scored
    losses = -np.log(np.where(detections.is_correct, detections.raw_scores, 1 - detections.raw_scores))[rows]
    assert raw["nll"] == pytest.approx(np.average(losses, weights=detections.weights[rows]))
    gaps = (detections.raw_scores - detections.is_correct)[rows]
    classes = detections.class_indices[rows]
    by_class = [
        np.average(gaps[classes == index], weights=detections.weights[rows][classes == index]) for index in (1, 2)
    ]
    assert raw["mean_class_bias"] == pytest.approx(np.mean(by_class), abs=1e-6)


def test_a_pools_histogram_does_not_judge_held_out_detections() -> None:
    """They are not from the pool. Only the corrector that is stored is fitted to the pool."""
    detections = made(300)
    pool = ReliabilityBins.from_detections(replace(detections, raw_scores=detections.raw_scores**3), 50)
    fitted = replace(CONTEXT, pool_histogram=pool)
    corrector = fit_corrector("marginal", detections, context=fitted)
    found, plain = (
        calibration_tables(
            detections,
            corrector=corrector,
            context=context,
            image_ids=[str(index) for index in range(20)],
            class_names=["a", "b", "c"],
            category_ids=[7, 8, 9],
            num_train_images=[0, 50, 200],
        )
        for context in (fitted, CONTEXT)
    )
    assert found.summary == plain.summary
    stored = found.detections["calibrated_score"].to_numpy()
    np.testing.assert_allclose(stored, corrector(detections), rtol=1e-6)


def test_given_accuracies_are_stored() -> None:
    """Those of a federated set use more than its scored detections."""
    detections = made(300)
    accuracy = ClassAccuracy(
        accuracy=np.array([np.nan, 0.25, 0.5]),
        low=np.array([np.nan, 0.125, 0.25]),
        high=np.array([np.nan, 0.5, 0.75]),
        num_effective=np.array([0.0, 3.0, 4.0]),
    )
    tables = calibration_tables(
        detections,
        corrector=fit_corrector("none", detections, context=CONTEXT),
        context=CONTEXT,
        image_ids=[str(index) for index in range(20)],
        class_names=["a", "b", "c"],
        category_ids=[7, 8, 9],
        num_train_images=[0, 50, 200],
        accuracy=accuracy,
    )
    assert tables.classes["accuracy"].to_pylist() == [None, 0.25, 0.5]
    assert tables.classes["accuracy_low"].to_pylist() == [None, 0.125, 0.25]
    assert tables.classes["accuracy_high"].to_pylist() == [None, 0.5, 0.75]
    assert tables.classes["num_effective"].to_pylist() == [0, 3, 4]
