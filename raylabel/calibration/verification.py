"""Accuracy and weights on federated truth, in which most (image, class) pairs were never checked."""

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from raylabel.calibration.accuracy import ClassAccuracy, clustered_accuracy, scored_accuracy
from raylabel.calibration.detections import Detections
from raylabel.dataset.annotations import AnnotatedSet
from raylabel.predictions.matching import Outcome

_NUM_SCORE_LEVELS = 6
_SHARE_MASS = 10.0
"""Number of images with a class that the share of unknown images of the other classes is worth."""
_CORRECT_MASS = 2.0
"""Number of detections that the correct share of the other classes is worth, per level of the score."""
_FIRST_SHARE = 0.3
"""Start of the iteration. It does not matter if the scores are informative (docs/decisions.md)."""
_MASS_GRID = np.logspace(-1, 3, 9)
_MAX_ITERATIONS, _TOLERANCE = 300, 1e-4


class Status(IntEnum):
    """Status of a class in an image, by the annotations."""

    UNKNOWN = 0
    """Nobody looked for the class."""
    ABSENT = 1
    """Somebody looked and found none (`neg_category_ids`)."""
    PRESENT = 2
    """Every object is annotated."""
    NOT_EXHAUSTIVE = 3
    """Some objects are annotated (`not_exhaustive_category_ids`)."""


def weigh_by_verification(detections: Detections, annotated: AnnotatedSet) -> Detections:
    """Set weights, so that the scored detections stand for all detections, including the ignored ones.

    A federated set tells which detections are right in images annotated with the class, and which are wrong in images
    checked for the class. For the other images only the number of detections is known. Per class, the sums of weights
    are:

        correct detections      the number expected to be correct among all detections (see `federated_accuracy`)
        incorrect detections    the rest. In images with the class, each weighs the number of images with the class per
                                annotated one. In images verified to be without the class, they weigh the remainder.

    These are Horvitz-Thompson weights, (images without the class) / (images verified to be without it), after the
    unknown images are divided between both. They are scaled to the known number of detections. If no incorrect
    detection lies in an image verified to be without the class, those in images with the class stand for all. Every
    weight is at least 1. Ignored detections and fully annotated sets have weights of 1.

    Args:
        detections: detections matched to `annotated`. `image_indices` are its rows; all its images were predicted.
        annotated: the annotated set.

    Source: Horvitz and Thompson 1952; Deville and Särndal 1992 (calibration to known totals); its use here is ours.
    """
    if not annotated.is_federated:
        return replace(detections, weights=np.ones(len(detections)))
    pairs = _Pairs.of(detections, annotated)
    truth = _expected_truth(pairs)
    classes, outcomes = detections.class_indices, detections.known_outcomes
    is_absent = np.zeros(len(detections), dtype=bool)
    is_absent[pairs.rows] = pairs.status[pairs.places] == Status.ABSENT
    is_wrong = outcomes == Outcome.INCORRECT

    def total(chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.bincount(classes[chosen], minlength=detections.num_classes).astype(np.float64)

    num_correct = total(outcomes == Outcome.CORRECT)
    wrong_present, wrong_absent = total(is_wrong & ~is_absent), total(is_wrong & is_absent)
    num_wrong = pairs.total(pairs.num) - pairs.total(truth.num_correct)
    present_weight = np.where(wrong_absent > 0, truth.images_per_annotated, _ratio(num_wrong, wrong_present))
    absent_weight = _ratio(num_wrong - present_weight * wrong_present, wrong_absent)
    correct_weight = _ratio(pairs.total(truth.num_correct), num_correct)
    weights = np.select(
        [outcomes == Outcome.CORRECT, is_wrong & is_absent, is_wrong],
        [correct_weight[classes], absent_weight[classes], present_weight[classes]],
        default=1.0,
    )
    return replace(detections, weights=np.maximum(weights, 1.0))


def federated_accuracy(detections: Detections, annotated: AnnotatedSet) -> ClassAccuracy:
    """Estimate the accuracy of all detections of each class, including those in images that nobody checked.

    The number of detections is known. The number of correct ones is known in annotated images, and 0 in images verified
    to be without the class. In an unknown image it is the expectation

        P(the image has the class | best score of the class in it) * detections * correct share at that score

    If only some objects are annotated, it is detections * correct share, but at least the number of matched ones. The
    probability comes from a mixture: an unknown image is like an image with the class or like one without it. The best
    scores give the proportions (expectation maximisation). Two quantities are shrunk to those of all classes: the
    distributions over score levels, and the share of images with a class that nobody annotated.

    The estimate is right if unknown images with a class look like the annotated ones. If the best scores of a class do
    not separate images with and without it, the estimate rests on the share of the other classes. A class that is
    annotated in no image counts as absent from all.

    `clustered_accuracy` gives the interval, with the variance of the expectations added. The effective number of a
    class is at most its number of scored detections. On fully annotated sets the result is `scored_accuracy`.

    Args:
        detections: see `weigh_by_verification`. Weights are not used.
        annotated: the annotated set.

    Source: ours; Saerens, Latinne and Decaestecker 2002 for class shares by expectation maximisation.
    """
    if not annotated.is_federated:
        return scored_accuracy(replace(detections, weights=np.ones(len(detections))))
    pairs = _Pairs.of(detections, annotated)
    truth = _expected_truth(pairs)
    return clustered_accuracy(
        class_indices=pairs.classes,
        num=pairs.num,
        num_correct=truth.num_correct,
        num_scored=np.bincount(detections.scored().class_indices, minlength=pairs.num_classes).astype(np.float64),
        variance=truth.variance,
    )


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """(image, class) pairs with a detection, (P,) each, without detections on crowd regions.

    Attributes:
        rows, places: rows of the detections that count, and the pair of each.
        classes, status, level: class, status and score level of each pair. `level` is the level of the best score, from
            1; level 0 means no detection.
        num, num_found: number of detections, and number of those matched to an object.
        images: (number of Status, num_classes, levels) images by status, class and level.
    """

    rows: NDArray[np.int64]
    places: NDArray[np.int64]
    classes: NDArray[np.int64]
    status: NDArray[np.int8]
    level: NDArray[np.int64]
    num: NDArray[np.float64]
    num_found: NDArray[np.float64]
    images: NDArray[np.float64]

    @property
    def num_classes(self) -> int:
        return int(self.images.shape[1])

    @staticmethod
    def of(detections: Detections, annotated: AnnotatedSet) -> "_Pairs":
        num_classes, outcomes = annotated.num_classes, detections.known_outcomes
        keys_of = _keys_by_status(annotated)
        keys = detections.image_indices * num_classes + detections.class_indices
        is_ignored = outcomes == Outcome.IGNORED
        is_crowd = is_ignored & np.isin(keys, np.concatenate([keys_of[Status.PRESENT], keys_of[Status.ABSENT]]))
        rows = np.flatnonzero(~is_crowd)
        pairs, places = np.unique(keys[rows], return_inverse=True)
        status = np.full(len(pairs), Status.UNKNOWN, dtype=np.int8)
        for name, of_status in keys_of.items():
            status[np.isin(pairs, of_status)] = name
        best = np.zeros(len(pairs))
        np.maximum.at(best, places, detections.raw_scores[rows])
        inner = np.linspace(0, 1, _NUM_SCORE_LEVELS + 1)[1:-1]
        edges = np.unique(np.quantile(best, inner)) if len(best) else np.zeros(0)
        level = 1 + np.searchsorted(edges, best, side="right")
        classes = pairs % num_classes
        images = np.zeros((len(Status), num_classes, len(edges) + 2))
        np.add.at(images, (status, classes, level), 1)
        for name, of_status in keys_of.items():
            images[name, :, 0] = np.bincount(of_status % num_classes, minlength=num_classes)
        images[Status.UNKNOWN, :, 0] = len(annotated) - images[1:, :, 0].sum(axis=0)
        images[:, :, 0] -= images[:, :, 1:].sum(axis=2)
        return _Pairs(
            rows=rows,
            places=places,
            classes=classes,
            status=status,
            level=level,
            num=np.bincount(places, minlength=len(pairs)).astype(np.float64),
            num_found=np.bincount(places, outcomes[rows] == Outcome.CORRECT, len(pairs)).astype(np.float64),
            images=images,
        )

    def total(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum values over the pairs of each class."""
        return np.bincount(self.classes, values, self.num_classes).astype(np.float64)


def _keys_by_status(annotated: AnnotatedSet) -> dict[Status, NDArray[np.int64]]:
    """Return the sorted keys row * num_classes + class of each status but UNKNOWN. No key has two statuses."""
    columns = (annotated.object_class_lists, annotated.negative_class_lists, annotated.not_exhaustive_class_lists)
    present, absent, not_exhaustive = (
        np.unique(one.rows * annotated.num_classes + one.values).astype(np.int64) for one in columns
    )
    return {
        Status.ABSENT: np.setdiff1d(np.setdiff1d(absent, present), not_exhaustive),
        Status.PRESENT: np.setdiff1d(present, not_exhaustive),
        Status.NOT_EXHAUSTIVE: not_exhaustive,
    }


@dataclass(frozen=True, kw_only=True)
class _Truth:
    """Expectations about a set.

    Attributes:
        num_correct: (P,) expected number of correct detections of each pair.
        variance: (num_classes,) variance of the sum of correct detections, given the scores.
        images_per_annotated: (num_classes,) images with the class per image annotated with it, >= 1.
    """

    num_correct: NDArray[np.float64]
    variance: NDArray[np.float64]
    images_per_annotated: NDArray[np.float64]


def _expected_truth(pairs: _Pairs) -> _Truth:
    present = pairs.images[Status.PRESENT] + pairs.images[Status.NOT_EXHAUSTIVE]
    unknown = pairs.images[Status.UNKNOWN]
    chances, share_variance = _chances_of_presence(present, pairs.images[Status.ABSENT], unknown)
    num_present, num_unknown_present = present.sum(axis=1), (chances * unknown).sum(axis=1)
    share = _share_correct(pairs)[pairs.classes, pairs.level]
    chance = chances[pairs.classes, pairs.level]
    if_present = pairs.num * share
    spread_if_present = if_present * (1 - share)
    is_unknown, is_part = pairs.status == Status.UNKNOWN, pairs.status == Status.NOT_EXHAUSTIVE
    num_correct = np.select(
        [is_unknown, is_part], [chance * if_present, np.maximum(pairs.num_found, if_present)], default=pairs.num_found
    )
    doubt = chance * (1 - chance)
    spread = np.select([is_unknown, is_part], [doubt * if_present**2 + chance * spread_if_present, spread_if_present])
    slope = pairs.total(is_unknown * doubt * if_present)
    return _Truth(
        num_correct=num_correct,
        variance=pairs.total(spread) + slope**2 * share_variance,
        images_per_annotated=np.where(num_present > 0, _ratio(num_present + num_unknown_present, num_present), 1.0),
    )


def _share_correct(pairs: _Pairs) -> NDArray[np.float64]:
    """Return the correct share of detections in images with the class, by the image's level, (num_classes, levels)."""
    is_present = pairs.status == Status.PRESENT
    num, num_correct = np.zeros((2, *pairs.images.shape[1:]))
    cells = pairs.classes[is_present], pairs.level[is_present]
    np.add.at(num, cells, pairs.num[is_present])
    np.add.at(num_correct, cells, pairs.num_found[is_present])
    of_all = _ratio(num_correct.sum(axis=0), num.sum(axis=0))
    return (num_correct + _CORRECT_MASS * of_all) / (num + _CORRECT_MASS)


def _chances_of_presence(
    present: NDArray[np.float64], absent: NDArray[np.float64], unknown: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Estimate the chance that an unknown image has the class, by level, and its uncertainty.

    Args:
        present, absent, unknown: (num_classes, levels) numbers of images.

    Returns:
        (num_classes, levels) chances, and a (num_classes,) variance. A share of the images with the class is
        unknown. The variance is that of the log odds of this share. It is 1 / the Fisher information that the scores
        of the unknown images and the other classes give.
    """
    num_present, num_unknown = present.sum(axis=1), unknown.sum(axis=1)
    share = np.full(len(num_present), _FIRST_SHARE)
    prior = _prior(num_present, num_unknown, share)
    chances = np.broadcast_to(prior, unknown.shape)
    for iteration in range(_MAX_ITERATIONS):
        if iteration % 5 == 0:
            if_present = _level_shares(present + chances * unknown)
            if_absent = _level_shares(absent + (1 - chances) * unknown)
        found = (chances * unknown).sum(axis=1)
        # Plus 0.5 of 10.5 images, because without any unknown image the share must stay just above 0.
        overall = (found.sum() + 0.5) / (found.sum() + num_present.sum() + 10.5)
        share = (found + _SHARE_MASS * overall) / (found + num_present + _SHARE_MASS)
        prior = _prior(num_present, num_unknown, share)
        before = chances
        chances = prior * if_present / (prior * if_present + (1 - prior) * if_absent)
        if iteration > 10 and np.abs(chances - before).max(initial=0.0) < _TOLERANCE:
            break
    information = (unknown * ((chances - prior) / (1 - prior)) ** 2).sum(axis=1)
    return chances, 1 / (information + _SHARE_MASS * overall * (1 - overall))


def _prior(
    num_present: NDArray[np.float64], num_unknown: NDArray[np.float64], share: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Convert the unknown share of images with the class to the share with the class of unknown images.

    The result has shape (num_classes, 1).
    """
    return np.clip(_ratio(num_present * share / (1 - share), num_unknown), 0.0, 0.98)[:, None]


def _level_shares(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the shares of images by level, (num_classes, levels): first detected or not, then the level of the score.

    Both are shrunk to the shares of all classes. The strength maximises the likelihood of the class counts
    (Dirichlet-multinomial).
    """
    is_detected = np.stack([images[:, 0], images[:, 1:].sum(axis=1)], axis=1)
    detected = _shrunk_shares(is_detected)
    return np.concatenate([detected[:, :1], detected[:, 1:] * _shrunk_shares(images[:, 1:])], axis=1)


def _shrunk_shares(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    overall = (counts.sum(axis=0) + 0.5) / (counts.sum() + 0.5 * counts.shape[1])
    num = counts.sum(axis=1)

    def log_likelihood(mass: float) -> float:
        prior = mass * overall
        of_levels = (gammaln(counts + prior) - gammaln(prior)).sum(axis=1)
        return float((gammaln(mass) - gammaln(mass + num) + of_levels).sum())

    mass = max(_MASS_GRID, key=log_likelihood)
    return (counts + mass * overall) / (num[:, None] + mass)


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the quotient, and 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)
