"""Intervals of AP are as wide as AP varies between draws of images, and differences of models are paired."""

from typing import Any

import numpy as np
import pytest

from raylabel.evaluation.average_precision import evaluate_results
from raylabel.evaluation.precision_intervals import Interval, JackknifedFigures, jackknife_results, precision_intervals

NUM_CLASSES = 3


def square(x: float, side: float) -> dict[str, Any]:
    return {"bbox": [x, 5.0, side, side]}


def simulated(seed: int, *, num_images: int = 100, num_models: int = 1) -> tuple[dict[str, Any], list[list[Any]]]:
    """Images with 1 to 4 objects. Each model finds a share of them that depends on the image, and has false alarms."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    models: list[list[Any]] = [[] for _ in range(num_models)]
    for image_id in range(num_images):
        ease = rng.beta(2, 1)
        for place in range(rng.integers(1, 5)):
            box = square(25.0 * place, 20)
            row = {"image_id": image_id, "category_id": int(rng.integers(NUM_CLASSES))}
            annotations.append(row | box | {"id": len(annotations) + 1, "area": 400})
            for number, results in enumerate(models):
                shrunk = square(25.0 * place, 20 - 4 * rng.random())
                if rng.random() < ease - 0.1 * number:
                    results.append(row | shrunk | {"score": float(rng.beta(3, 2))})
                if rng.random() < 0.3:
                    results.append(row | square(25.0 * place + 15, 8) | {"score": float(rng.beta(2, 3))})
    dataset = {
        "images": [{"id": one, "height": 40, "width": 120} for one in range(num_images)],
        "categories": [{"id": one, "name": str(one)} for one in range(NUM_CLASSES)],
        "annotations": annotations,
    }
    return dataset, models


def jackknifed(seed: int, **changes: Any) -> list[JackknifedFigures]:
    dataset, models = simulated(seed, **changes)
    return [jackknife_results(dataset, results, iou_type="bbox") for results in models]


def test_figures_are_those_of_the_evaluation() -> None:
    dataset, [results] = simulated(0)
    measured = jackknife_results(dataset, results, iou_type="bbox")
    assert measured.figures == evaluate_results(dataset, results, iou_type="bbox")
    assert len(measured.without) == 20
    assert precision_intervals(measured)["AP"].value == measured.figures["AP"]


def test_as_wide_as_average_precision_varies_and_covers_it() -> None:
    intervals = [precision_intervals(one)["AP"] for seed in range(200) for one in jackknifed(seed, num_images=60)]
    values = np.array([one.value for one in intervals])
    half_widths = np.array([one.half_width for one in intervals])
    standard_error = np.sqrt(np.mean((half_widths / 2.093) ** 2))  # 97.5% quantile of t with 19 degrees of freedom
    assert standard_error == pytest.approx(values.std(), rel=0.2)
    assert 0.9 <= np.mean(np.abs(values - values.mean()) <= half_widths) <= 0.99


def test_a_difference_is_paired() -> None:
    better, worse = jackknifed(3, num_models=2)
    paired = precision_intervals(worse, better)["AP"]
    apart = [precision_intervals(one)["AP"].half_width for one in (better, worse)]
    assert paired.value < 0
    assert paired.half_width < np.hypot(*apart)
    assert precision_intervals(better, better)["AP"] == Interval(0.0, 0.0)


def test_the_same_seed_leaves_out_the_same_images() -> None:
    dataset, [results] = simulated(1)
    first, again, other = (jackknife_results(dataset, results, iou_type="bbox", seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.without != other.without


def test_no_interval_without_images_to_leave_out_or_figures_that_are_always_known() -> None:
    dataset, [results] = simulated(2, num_images=1)
    assert precision_intervals(jackknife_results(dataset, results, iou_type="bbox")) == {}
    figures = [{"AP": 0.5, "APr": 0.2}, {"AP": 0.4, "APr": None}, {"AP": 0.6, "APr": 0.2}, {"AP": 0.5, "APr": 0.2}]
    assert set(precision_intervals(JackknifedFigures(figures[0], tuple(figures[1:])))) == {"AP"}
    two = [jackknife_results(*_few(number), iou_type="bbox") for number in (2, 3)]
    assert [len(one.without) for one in two] == [2, 3]


def _few(num_images: int) -> tuple[dict[str, Any], list[Any]]:
    dataset, [results] = simulated(4, num_images=num_images)
    return dataset, results


def test_a_half_width_by_hand() -> None:
    """Three values 0.4, 0.5 and 0.6 without a part each: the jackknife's variance is 2/3 * (0.01 + 0 + 0.01)."""
    figures = JackknifedFigures({"AP": 0.5}, ({"AP": 0.4}, {"AP": 0.5}, {"AP": 0.6}))
    # The 97.5% quantile of Student's t with 2 degrees of freedom is 4.3027.
    found = precision_intervals(figures)["AP"]
    assert found == Interval(0.5, pytest.approx(4.3027 * np.sqrt(0.04 / 3), rel=1e-4))
    base = JackknifedFigures({"AP": 0.3}, ({"AP": 0.3}, {"AP": 0.3}, {"AP": 0.3}))
    assert precision_intervals(figures, base)["AP"] == Interval(pytest.approx(0.2), pytest.approx(found.half_width))


def test_figures_without_a_part_have_the_given_groups() -> None:
    dataset, [results] = simulated(0, num_images=30)
    found = jackknife_results(dataset, results, iou_type="bbox", frequency_groups={0: "r", 1: "f", 2: "f"})
    for figures in (found.figures, *found.without):
        assert figures["APr"] is not None
        assert figures["APc"] is None
    assert {"APr", "APf"} <= set(precision_intervals(found))
    assert len(jackknife_results(dataset, results, iou_type="bbox", num_parts=7).without) == 7
