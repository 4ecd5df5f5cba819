"""AP^pool and yield: by hand, against scikit-learn, hotcoco and a plain reference."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hotcoco import COCO, COCOeval
from hotcoco import metrics as hotcoco_metrics
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from raylabel.calibration import ImagePredictions, match_set
from raylabel.calibration.metrics import pooled_average_precision, precision_recall, yield_at_precision
from raylabel.dataset.annotations import read_annotations

ROWS = st.lists(st.tuples(st.integers(0, 8), st.booleans(), st.integers(0, 3)), min_size=1, max_size=30)


def test_by_hand() -> None:
    # Ranked: right, wrong, right; 4 objects. Recall 1/4, 1/4, 1/2; precision 1, 1/2, 2/3.
    scores, correct = np.array([0.3, 0.9, 0.6]), np.array([True, True, False])
    curve = precision_recall(scores, correct, 4)
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3])
    np.testing.assert_allclose(curve.recall, [1 / 4, 1 / 4, 1 / 2])
    assert curve.thresholds.tolist() == [0.9, 0.6, 0.3]
    # 26 of the 101 recalls are <= 0.25 and 25 more <= 0.5.
    assert pooled_average_precision(scores, correct, 4) == pytest.approx((26 * 1 + 25 * 2 / 3) / 101)
    assert pooled_average_precision(scores, correct, 4, interpolated=False) == pytest.approx(1 / 4 + 1 / 4 * 2 / 3)


def test_yield_by_hand() -> None:
    # Precision of the best 1, ..., 6: 1, 1/2, 2/3, 3/4, 4/5, 4/6. Of 10 objects, 4 are found by the best five.
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    correct = np.array([1, 0, 1, 1, 1, 0])
    found = yield_at_precision(scores, correct, 10)
    assert found == pytest.approx((0.4, 0.5, 0.8, 5.0))
    assert yield_at_precision(scores, correct, 10, precision=0.81) == pytest.approx((0.1, 0.9, 1.0, 1.0))
    # A wrong detection of weight 2 makes it 4 of 6: only the first remains; of weight 1/2, 4 of 4.5 and then 4 of 5.5.
    heavy = np.array([1, 2, 1, 1, 1, 1])
    assert yield_at_precision(scores, correct, 10, weights=heavy).recall == pytest.approx(0.1)
    light = np.array([1, 0.5, 1, 1, 1, 0.5])
    found = yield_at_precision(scores, correct, 10, weights=light)
    assert found == pytest.approx((0.4, 0.5, 4 / 4.5, 4.5)), "of equal recalls, the fewest wrong"


def test_equal_scores_are_kept_together() -> None:
    # At 0.9 two of three are right: no threshold keeps only the two.
    scores, correct = np.array([0.9, 0.9, 0.9, 0.5]), np.array([True, True, False, False])
    found = yield_at_precision(scores, correct, 2)
    assert found == (0.0, None, None, 0.0)
    assert yield_at_precision(scores, correct, 2, precision=0.6) == pytest.approx((1.0, 0.9, 2 / 3, 3.0))
    assert pooled_average_precision(scores, correct, 2) == pytest.approx(2 / 3)


def test_no_detection_finds_nothing() -> None:
    nothing = np.zeros(0), np.zeros(0, dtype=bool)
    assert pooled_average_precision(*nothing, 3) == 0.0
    assert pooled_average_precision(*nothing, 3, interpolated=False) == 0.0
    assert yield_at_precision(*nothing, 3) == (0.0, None, None, 0.0)
    assert yield_at_precision(np.array([0.9]), np.array([True]), 3, weights=np.zeros(1)) == (0.0, None, None, 0.0)


@pytest.mark.parametrize("figure", [pooled_average_precision, yield_at_precision, precision_recall])
def test_wrong_input_is_refused(figure: Callable[..., Any]) -> None:
    scores, correct = np.array([0.9, 0.8]), np.array([True, True])
    with pytest.raises(ValueError, match="num_objects must be > 0, got 0"):
        figure(scores, correct, 0)
    with pytest.raises(ValueError, match="num_objects must be at least the 2 correct detections, got 1"):
        figure(scores, correct, 1)
    with pytest.raises(ValueError, match="leave ignored detections out"):
        figure(scores, np.array([1, 2]), 5)
    with pytest.raises(ValueError, match=r"is_correct must have shape \(2,\)"):
        figure(scores, correct[:1], 5)
    with pytest.raises(ValueError, match="scores must be finite"):
        figure(np.array([np.nan, 0.8]), correct, 5)


def test_such_a_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"precision must be in \(0, 1\], got 80"):
        yield_at_precision(np.array([0.9]), np.array([True]), 1, precision=80)


@given(ROWS, st.integers(1, 5))
def test_uninterpolated_equals_scikit_learn(rows: list[tuple[int, bool, int]], num_missed: int) -> None:
    """The figures agree with ties and weights. Scikit-learn counts only the found objects."""
    places, correct, weights = (np.array(column) for column in zip(*rows, strict=True))
    num_found = float((weights * correct).sum())
    if num_found == 0:
        return
    theirs = average_precision_score(correct, places, sample_weight=weights) * num_found / (num_found + num_missed)
    ours = pooled_average_precision(places, correct, num_found + num_missed, weights=weights, interpolated=False)
    assert ours == pytest.approx(theirs)


@given(st.integers(0, 10_000), st.integers(0, 60), st.integers(1, 20))
def test_interpolated_equals_hotcoco(seed: int, num: int, num_missed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, correct = rng.random(num), rng.random(num) < 0.5
    num_objects = int(correct.sum()) + num_missed
    theirs = hotcoco_metrics.average_precision(scores, correct, num_objects)
    assert pooled_average_precision(scores, correct, num_objects) == pytest.approx(theirs, abs=1e-9)


@given(ROWS, st.integers(0, 5), st.sampled_from([0.5, 0.8, 1.0]))
def test_yield_equals_trying_every_threshold(
    rows: list[tuple[int, bool, int]], num_missed: int, precision: float
) -> None:
    places, correct, weights = (np.array(column) for column in zip(*rows, strict=True))
    num_objects = float((weights * correct).sum()) + num_missed
    if num_objects == 0:
        return
    best = 0.0
    for threshold in np.unique(places):
        kept = weights[places >= threshold]
        right = float(kept[correct[places >= threshold]].sum())
        if kept.sum() > 0 and right >= precision * kept.sum() - 1e-9:
            best = max(best, right / num_objects)
    found = yield_at_precision(places, correct, num_objects, precision=precision, weights=weights)
    assert found.recall == pytest.approx(best)
    if found.threshold is not None:
        kept = weights[places >= found.threshold]
        assert found.num == pytest.approx(kept.sum())
        assert found.precision == pytest.approx(kept[correct[places >= found.threshold]].sum() / kept.sum())
        assert found.precision >= precision - 1e-6


@given(ROWS, st.integers(1, 5), st.randoms())
def test_only_the_ranking_matters(rows: list[tuple[int, bool, int]], num_missed: int, random: Any) -> None:
    """A rising map of the scores and the order of rows change nothing. Weights count as repeated rows."""
    random.shuffle(rows)
    places, correct, weights = (np.array(column) for column in zip(*rows, strict=True))
    num_objects = float((weights * correct).sum()) + num_missed
    falling = np.argsort(-places, kind="stable")
    for figure in (pooled_average_precision, lambda *a, **k: yield_at_precision(*a, **k).recall):
        ours = figure(places, correct, num_objects, weights=weights)
        assert ours == pytest.approx(figure(np.exp(places - 20.0), correct, num_objects, weights=weights))
        assert ours == pytest.approx(figure(places[falling], correct[falling], num_objects, weights=weights[falling]))
        assert ours == pytest.approx(figure(np.repeat(places, weights), np.repeat(correct, weights), num_objects))


def test_overconfidence_of_one_class_costs_the_pool() -> None:
    """Each class ranks perfectly, but wrong ones of the second lie above right ones of the first.

    Mean AP does not see it.
    """
    scores = np.array([0.6, 0.5, 0.2, 0.95, 0.9, 0.8])
    correct = np.array([True, True, False, True, False, False])
    assert pooled_average_precision(scores[:3], correct[:3], 2) == pytest.approx(1)
    assert pooled_average_precision(scores[3:], correct[3:], 1) == pytest.approx(1)
    corrected = scores - np.array([0, 0, 0, 0.1, 0.7, 0.7])
    assert pooled_average_precision(scores, correct, 3) < 0.8
    assert pooled_average_precision(corrected, correct, 3) == pytest.approx(1)


def test_equals_hotcocos_evaluator_on_a_real_detector(shared_data: Callable[[str], Path]) -> None:
    """If each (image, class) pair becomes an image and all classes become one, COCO's AP is AP^pool."""
    folder = shared_data("external_detector")
    content = json.loads((folder / "instances.json").read_text())
    results = json.loads((folder / "results.json").read_text())
    # Make scores different in the same order, because COCO's figure depends on the file's order of equal scores.
    ranks = np.empty(len(results))
    ranks[np.argsort([one["score"] for one in results], kind="stable")] = np.arange(1, len(results) + 1) / len(results)
    annotated = read_annotations(str(folder / "instances.json"))
    row_of = {image.image_id: row for row, image in enumerate(annotated.images)}
    places: dict[int, list[int]] = {}
    for place, one in enumerate(results):
        places.setdefault(row_of[one["image_id"]], []).append(place)
    detections = match_set(
        annotated,
        {
            row: ImagePredictions(
                np.array([annotated.class_index_of[results[place]["category_id"]] for place in group]),
                ranks[group],
                [
                    {"size": one["size"], "counts": one["counts"].encode()}
                    for one in (results[place]["segmentation"] for place in group)
                ],
            )
            for row, group in places.items()
        },
    ).scored()
    num_objects = sum(not one.get("iscrowd") for one in content["annotations"])
    ours = pooled_average_precision(detections.raw_scores, detections.is_correct, num_objects)

    pairs = sorted({(one["image_id"], one["category_id"]) for one in (*content["annotations"], *results)})
    number_of = {pair: number for number, pair in enumerate(pairs, start=1)}
    size_of = {image["id"]: (image["height"], image["width"]) for image in content["images"]}

    def moved(one: dict[str, Any]) -> dict[str, Any]:
        return one | {"image_id": number_of[one["image_id"], one["category_id"]], "category_id": 1}

    truth = COCO(
        {
            "images": [
                {"id": number, "height": size_of[image][0], "width": size_of[image][1]}
                for (image, _), number in number_of.items()
            ],
            "categories": [{"id": 1, "name": "any"}],
            "annotations": [moved(one) for one in content["annotations"]],
        }
    )
    ranked = [moved(one) | {"score": float(rank)} for one, rank in zip(results, ranks, strict=True)]
    evaluation = COCOeval(truth, truth.load_res(ranked), "segm")
    params = evaluation.params
    params.iou_thrs, params.max_dets = [0.5], [100_000]
    params.area_rng, params.area_rng_lbl = [[-1e10, 1e10]], ["all"]
    evaluation.evaluate()
    evaluation.accumulate()
    theirs = float(np.mean(evaluation.eval["precision"][0, :, 0, 0, 0]))
    assert ours == pytest.approx(theirs, abs=1e-9)
    assert 0.1 < ours < 0.9
