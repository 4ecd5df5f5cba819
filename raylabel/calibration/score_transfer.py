"""Transfer of matched detections from one model's scores to another's, by rank on images without truth."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from raylabel.calibration.correctors.base import logits
from raylabel.calibration.detections import Detections

PRIOR_COUNT = 30.0
"""Number of detections of its frequency group that are added to each class's own."""

_KNOTS = np.linspace(-7.0, 9.0, 321)
"""Logits at which detections are counted."""

_TINY = 1e-6


def transfer_scores(
    detections: Detections, source: Detections, target: Detections, *, frequency_groups: NDArray[np.str_]
) -> Detections:
    """Return detections with the scores that another model would give at the same rank.

    A corrector needs detections with known outcomes, from images that its model has not seen. Another model may have
    made them, such as the teacher of a fold. Its scores are then of another scale. Both models predict the same images,
    whose truth nobody knows. The score at which one model has n detections of a class there stands for the score at
    which the other has n.

        score -> score of `target` that has as many detections of the class above it as the score has in `source`

    To the detections of a class, `PRIOR_COUNT` detections of its frequency group are added, because a rare class has
    few. Scores stay unchanged where neither model has a detection.

    Args:
        detections: matched detections of the source model. Outcomes, context and images stay.
        source: its detections on the common images. Outcomes do not count.
        target: the other model's detections on the same images.
        frequency_groups: (num_classes,) "r", "c" or "f".

    Source: ours. It is quantile mapping (Kolen and Brennan 2014, "Test Equating"), but by numbers, not by shares.
    """
    is_same_group = frequency_groups[:, None] == frequency_groups
    group_mean = is_same_group / is_same_group.sum(axis=1)
    above_source, above_target = _num_above(source), _num_above(target)
    of_group = group_mean @ above_source, group_mean @ above_target
    scale = PRIOR_COUNT / np.maximum((of_group[0][:, :1] + of_group[1][:, :1]) / 2, 1.0)
    above_source, above_target = above_source + scale * of_group[0], above_target + scale * of_group[1]
    # Without any detection the knots themselves are ranked, which leaves the scores as they are.
    above_source, above_target = above_source + _TINY * expit(-_KNOTS), above_target + _TINY * expit(-_KNOTS)
    transferred = detections.raw_scores.copy()
    score_logits = logits(detections.raw_scores)
    for class_index in np.unique(detections.class_indices):
        rows = detections.class_indices == class_index
        num = np.interp(score_logits[rows], _KNOTS, above_source[class_index])
        # Numbers fall with the score, and np.interp wants them rising.
        transferred[rows] = expit(np.interp(num, above_target[class_index][::-1], _KNOTS[::-1]))
    return replace(detections, raw_scores=transferred)


def _num_above(detections: Detections) -> NDArray[np.float64]:
    """Count the detections of each class above each knot: (num_classes, num_knots), falling."""
    num_classes, num_knots = detections.num_classes, len(_KNOTS)
    places = np.searchsorted(_KNOTS, logits(detections.raw_scores), side="right")
    cells = detections.class_indices.astype(np.int64) * (num_knots + 1) + places
    counts = np.bincount(cells, minlength=num_classes * (num_knots + 1)).reshape(num_classes, num_knots + 1)
    return counts[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:].astype(np.float64)
