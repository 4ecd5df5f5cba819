"""Bias, coverage and weights under federated truth. The detections are simulated, so the full truth is known."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from raylabel.calibration import (
    ClassAccuracy,
    Detections,
    federated_accuracy,
    match_set,
    scored_accuracy,
    weigh_by_verification,
)
from raylabel.dataset.annotated_set import AnnotatedSet, Category
from raylabel.dataset.image_records import ImageRecord
from raylabel.dataset.synthetic.federated import federate
from raylabel.predictions.matching import Outcome

NUM_CLASSES = 10
# Percent of images with the class, from frequent to rare.
SHARES = np.array([0.5, 0.35, 0.25, 0.18, 0.12, 0.1, 0.08, 0.05, 0.04, 0.03])


def annotated_set(
    present: list[set[int]], negative: list[set[int]], not_exhaustive: list[set[int]], *, is_federated: bool = True
) -> AnnotatedSet:
    """Build a set that says which classes are annotated in which image, without masks."""
    return AnnotatedSet.of_records(
        images=tuple(
            ImageRecord(
                image_id=row,
                file_name=f"{row}.jpg",
                uri="",
                height=1,
                width=1,
                negative_classes=frozenset(negative[row]),
                not_exhaustive_classes=frozenset(not_exhaustive[row]),
            )
            for row in range(len(present))
        ),
        categories=tuple(Category(category_id=one, name=str(one)) for one in range(NUM_CLASSES)),
        annotations=tuple(tuple({"category_id": one} for one in sorted(classes)) for classes in present),
        is_federated=is_federated,
    )


def simulate(
    seed: int, *, unknown_share: float, num_images: int = 120
) -> tuple[Detections, AnnotatedSet, NDArray[np.float64]]:
    """Return detections matched to a federated set, the set, and each class's accuracy on the full truth.

    The detector finds 60% of the objects. The most frequent class has 1/3 false detection per image; the others have
    fewer. Beside objects of the next class false detections are three times as frequent. Scores separate right from
    wrong only in part.
    """
    rng = np.random.default_rng(seed)
    objects = [
        np.repeat(
            np.arange(NUM_CLASSES), (rng.random(NUM_CLASSES) < SHARES) * rng.choice([1, 2, 3], NUM_CLASSES)
        ).tolist()
        for _ in range(num_images)
    ]
    federated = federate(objects, NUM_CLASSES, [seed, 1], unknown_share=unknown_share)
    classes, scores, images, truth, outcomes = [], [], [], [], []
    rates = np.linspace(1.0, 0.05, NUM_CLASSES) / 3
    for row, (of_image, annotation) in enumerate(zip(objects, federated, strict=True)):
        looked_for = {of_image[index] for index in annotation.kept} | set(annotation.negative_classes)
        looked_for -= set(annotation.not_exhaustive_classes)
        for index in np.flatnonzero(rng.random(len(of_image)) < 0.6):
            classes.append(of_image[index])
            scores.append(rng.beta(4, 2))
            truth.append(True)
            outcomes.append(
                Outcome.CORRECT
                if index in annotation.kept
                else Outcome.INCORRECT
                if of_image[index] in looked_for
                else Outcome.IGNORED
            )
        beside = np.isin((np.arange(NUM_CLASSES) + 1) % NUM_CLASSES, of_image)
        for class_index in np.repeat(np.arange(NUM_CLASSES), rng.poisson(rates * np.where(beside, 3, 1))):
            classes.append(int(class_index))
            scores.append(rng.beta(2, 3))
            truth.append(False)
            outcomes.append(Outcome.INCORRECT if class_index in looked_for else Outcome.IGNORED)
        images += [row] * (len(classes) - len(images))
    detections = Detections(
        num_classes=NUM_CLASSES,
        class_indices=np.array(classes, np.int32),
        raw_scores=np.array(scores),
        image_indices=np.array(images, np.int64),
        outcomes=np.array(outcomes, np.int8),
        weights=np.ones(len(classes)),
    )
    present = [{of_image[index] for index in one.kept} for of_image, one in zip(objects, federated, strict=True)]
    annotated = annotated_set(
        present,
        [set(one.negative_classes) for one in federated],
        [set(one.not_exhaustive_classes) for one in federated],
    )
    num = np.bincount(classes, minlength=NUM_CLASSES)
    return detections, annotated, np.bincount(classes, truth, NUM_CLASSES) / np.maximum(num, 1)


def covered(found: ClassAccuracy, truth: NDArray[np.float64]) -> NDArray[np.bool_]:
    known = np.isfinite(found.accuracy)
    return ((found.low <= truth) & (truth <= found.high))[known]


@pytest.mark.parametrize("unknown_share", [0.0, 0.05, 0.15, 0.3])
def test_estimates_are_nearly_unbiased_and_intervals_cover(unknown_share: float) -> None:
    errors, naive_errors, coverage, naive_coverage = [], [], [], []
    for seed in range(40):
        detections, annotated, truth = simulate(seed, unknown_share=unknown_share)
        found, naive = federated_accuracy(detections, annotated), scored_accuracy(detections)
        errors.append(np.nanmean(found.accuracy - truth))
        naive_errors.append(np.nanmean(naive.accuracy - truth))
        coverage.append(covered(found, truth).mean())
        naive_coverage.append(covered(naive, truth)[:5].mean())
    assert abs(np.mean(errors)) < 0.02
    assert np.mean(coverage) > 0.97
    assert np.mean(np.array(coverage) >= 0.9) > 0.95, "nearly every draw covers at least 9 of 10 classes"
    assert np.mean(naive_errors) > 0.1, "without weights the accuracy is too high"
    assert np.mean(naive_coverage) < 0.9, "intervals of frequent classes then miss the truth"


def test_weights_give_the_estimated_accuracy_and_number() -> None:
    detections, annotated, _ = simulate(0, unknown_share=0.15)
    weighted, found = weigh_by_verification(detections, annotated), federated_accuracy(detections, annotated)
    assert (weighted.weights >= 1).all()
    assert (weighted.weights[~detections.is_scored] == 1).all()
    accuracy = scored_accuracy(weighted).accuracy
    frequent = slice(0, 5)
    np.testing.assert_allclose(accuracy[frequent], found.accuracy[frequent], atol=0.01)
    scored = weighted.scored()
    np.testing.assert_allclose(
        np.bincount(scored.class_indices, scored.weights)[frequent],
        np.bincount(detections.class_indices)[frequent],
        rtol=0.01,
    )


def test_weights_before_do_not_matter() -> None:
    detections, annotated, _ = simulate(0, unknown_share=0.05)
    once = weigh_by_verification(detections, annotated)
    np.testing.assert_array_equal(weigh_by_verification(once, annotated).weights, once.weights)
    np.testing.assert_array_equal(
        federated_accuracy(once, annotated).low, federated_accuracy(detections, annotated).low
    )


def test_a_fully_annotated_set_has_weight_one_and_the_plain_accuracy() -> None:
    detections, annotated, _ = simulate(0, unknown_share=0.0)
    full = replace(annotated, is_federated=False)
    assert (weigh_by_verification(detections, full).weights == 1).all()
    for one, other in zip(
        vars(federated_accuracy(detections, full)).values(), vars(scored_accuracy(detections)).values(), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_federated_set_in_which_every_pair_was_looked_at_has_weight_one() -> None:
    detections, annotated, _ = simulate(0, unknown_share=0.0)
    present = [{one["category_id"] for one in of_image} for of_image in annotated.annotations]
    negative = [set(range(NUM_CLASSES)) - classes for classes in present]
    everywhere = annotated_set(present, negative, [set()] * len(present))
    scored = detections.scored()
    np.testing.assert_allclose(weigh_by_verification(scored, everywhere).weights, 1)
    np.testing.assert_allclose(
        federated_accuracy(scored, everywhere).accuracy, scored_accuracy(scored).accuracy, atol=1e-12
    )


def made(*rows: tuple[int, int, float, Outcome]) -> Detections:
    """Build detections from rows of (image, class, score, outcome)."""
    images, classes, scores, outcomes = zip(*rows, strict=True)
    return Detections(
        num_classes=NUM_CLASSES,
        class_indices=np.array(classes, np.int32),
        raw_scores=np.array(scores),
        image_indices=np.array(images, np.int64),
        outcomes=np.array(outcomes, np.int8),
        weights=np.ones(len(rows)),
    )


def test_verified_mistakes_stand_for_those_that_nobody_looked_at() -> None:
    """Of ten images, two have class 0 and two are verified to be without it. Each image has one detection."""
    present, negative = [{0}, {0}, *[set[int]()] * 8], [set[int](), set(), {0}, {0}, *[set[int]()] * 6]
    annotated = annotated_set(present, negative, [set()] * 10)
    rows = [(row, 0, 0.9 if row < 2 else 0.1, Outcome.CORRECT if row < 2 else Outcome.INCORRECT) for row in range(4)]
    detections = made(*rows, *[(row, 0, 0.1, Outcome.IGNORED) for row in range(4, 10)])
    found = federated_accuracy(detections, annotated)
    assert found.accuracy[0] == pytest.approx(0.2, abs=0.02)
    assert found.low[0] < 0.2 < found.high[0]
    weights = weigh_by_verification(detections, annotated).weights
    np.testing.assert_allclose(weights[:4], [1, 1, 4, 4], rtol=0.05)


def test_a_class_that_nobody_looked_for_has_no_figure() -> None:
    annotated = annotated_set([{0}, set()], [set(), {0}], [set(), set()])
    found = federated_accuracy(made((0, 0, 0.9, Outcome.CORRECT), (1, 3, 0.9, Outcome.IGNORED)), annotated)
    assert np.isnan(found.accuracy[3])
    assert found.num_effective[3] == 0
    assert found.accuracy[0] == 1


def test_crowd_regions_stay_ignored() -> None:
    """A detection on a crowd region is neither right nor wrong, even if its class is annotated."""
    annotated = annotated_set([{0}, {0}], [set(), set()], [set(), set()])
    detections = made((0, 0, 0.9, Outcome.CORRECT), (0, 0, 0.4, Outcome.IGNORED), (1, 0, 0.8, Outcome.INCORRECT))
    assert federated_accuracy(detections, annotated).accuracy[0] == pytest.approx(0.5)
    np.testing.assert_allclose(weigh_by_verification(detections, annotated).weights, 1)


def test_no_detection_at_all() -> None:
    annotated = annotated_set([{0}, set()], [set(), {0}], [set(), set()])
    assert np.isnan(federated_accuracy(Detections.empty(NUM_CLASSES), annotated).accuracy).all()
    assert len(match_set(annotated, {})) == 0


def test_an_interval_spans_what_the_share_is_unsure_by() -> None:
    """The detector says the same about every image, so its scores can't tell which unknown images have the class.

    More images then do not narrow the interval: how many images were left out stays as unsure as for one class alone.
    """
    widths = []
    for num in (200, 2000):
        present, absent = num, num
        annotated = annotated_set(
            [{0}] * present + [set()] * (num * 5),
            [set()] * present + [{0}] * absent + [set()] * (num * 4),
            [set()] * (num * 6),
        )
        rows = np.arange(num * 6)
        outcomes = np.where(
            rows < present, Outcome.CORRECT, np.where(rows < 2 * num, Outcome.INCORRECT, Outcome.IGNORED)
        )
        detections = Detections(
            num_classes=NUM_CLASSES,
            class_indices=np.zeros(len(rows), np.int32),
            raw_scores=np.full(len(rows), 0.5),
            image_indices=rows,
            outcomes=outcomes.astype(np.int8),
            weights=np.ones(len(rows)),
        )
        found = federated_accuracy(detections, annotated)
        assert found.low[0] < found.accuracy[0] < found.high[0]
        widths.append(found.high[0] - found.low[0])
    assert widths[0] > 0.1
    assert widths[1] > 0.8 * widths[0]


def test_no_weight_is_below_1() -> None:
    """The detector misses half of the images with the class, and finds nothing in the unknown ones.

    Some of these have the class then, and the wrong ones of the images with the class stand for more wrong ones than
    there are.
    """
    num_present, num_unknown, num_absent = 20, 60, 4
    annotated = annotated_set(
        [{0}] * num_present + [set()] * (num_unknown + num_absent),
        [set()] * (num_present + num_unknown) + [{0}] * num_absent,
        [set()] * (num_present + num_unknown + num_absent),
    )
    found, absent = np.arange(num_present // 2), num_present + num_unknown + np.arange(2)
    outcomes = [Outcome.CORRECT] * len(found) + [Outcome.INCORRECT] * (len(found) + len(absent))
    detections = Detections(
        num_classes=NUM_CLASSES,
        class_indices=np.zeros(len(outcomes), np.int32),
        raw_scores=np.concatenate([np.full(len(found), 0.9), np.full(len(found) + len(absent), 0.2)]),
        image_indices=np.concatenate([found, found, absent]),
        outcomes=np.array(outcomes, np.int8),
        weights=np.ones(len(outcomes)),
    )
    weights = weigh_by_verification(detections, annotated).weights
    assert weights[:10].tolist() == [1] * 10
    assert (weights[10:20] > 1).all()
    assert weights[20:].tolist() == [1, 1]


def test_images_that_may_have_the_class_are_worth_as_many_detections() -> None:
    """20 detections are right and 20 wrong, each in its own image. Two unknown images hold 40 each, like either kind.

    Whether these images have the class decides over nearly all detections, like two tosses of a coin.
    """
    annotated = annotated_set(
        [{0}] * 20 + [set()] * 22,
        [set()] * 20 + [{0}] * 20 + [set()] * 2,
        [set()] * 42,
    )
    images = np.concatenate([np.arange(40), np.repeat([40, 41], 40)])
    outcomes = [Outcome.CORRECT] * 20 + [Outcome.INCORRECT] * 20 + [Outcome.IGNORED] * 80
    detections = Detections(
        num_classes=NUM_CLASSES,
        class_indices=np.zeros(120, np.int32),
        raw_scores=np.full(120, 0.5),
        image_indices=images,
        outcomes=np.array(outcomes, np.int8),
        weights=np.ones(120),
    )
    found = federated_accuracy(detections, annotated)
    assert found.accuracy[0] == pytest.approx(0.5, abs=0.02)
    assert found.num_effective[0] == pytest.approx(2, abs=0.5)
