"""95% intervals of average precision over the images that it was measured on, by the jackknife.

A class's AP depends on the ranking of all its detections, so AP has no variance per image. The delete-a-group jackknife
(Kott, Journal of Official Statistics 17, 2001) leaves out one part of the images after the other. The spread of the
results shows how much AP depends on the images. Every model leaves out the same parts, so a difference of two models
gets a paired interval. The intervals do not contain the randomness of training: other seeds give other models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hotcoco import StreamingEval
from numpy.typing import NDArray
from scipy.special import stdtrit

from raylabel.evaluation.checked_input import IouType
from raylabel.evaluation.checked_results import check_results
from raylabel.evaluation.match_rows import Figures, Protocol, figures

NUM_PARTS = 20
"""Number of parts of the images. Student's t of the interval has NUM_PARTS - 1 degrees of freedom."""


@dataclass(frozen=True)
class JackknifedFigures:
    """Figures of one model on all images, and without each part of the images.

    Attributes:
        figures: figures on all images, from `evaluate_results`.
        without: figures without each part; empty if there are fewer than 2 images.
    """

    figures: Figures
    without: tuple[Figures, ...]


@dataclass(frozen=True)
class Interval:
    """The 95% interval `value` ± `half_width`."""

    value: float
    half_width: float


def jackknife_results(
    annotations: str | dict[str, Any],
    results: str | list[dict[str, Any]],
    *,
    iou_type: IouType = "segm",
    frequency_groups: Mapping[int, str] | None = None,
    num_parts: int = NUM_PARTS,
    seed: int = 0,
) -> JackknifedFigures:
    """Evaluate results on all images, and without each of `num_parts` parts of them.

    Args:
        annotations: see `evaluate_results`.
        results: see `evaluate_results`.
        iou_type: see `evaluate_results`.
        frequency_groups: see `evaluate_results`.
        num_parts: largest number of parts. There are never more parts than images.
        seed: seed of the parts. Use the same seed for results that are compared.

    Raises:
        InputError: see `evaluate_results`.
    """
    checked = check_results(
        annotations, results, iou_type=iou_type, frequency_groups=frequency_groups, num_parts=num_parts, seed=seed
    )
    return jackknifed_figures(checked.protocol, checked.parts, checked.num_images)


def jackknifed_figures(protocol: Protocol, parts: Sequence[StreamingEval], num_images: int) -> JackknifedFigures:
    """Compute the figures from the match rows of all parts, and without each part if there are several images."""
    others = [[*parts[:place], *parts[place + 1 :]] for place in range(len(parts))] if num_images > 1 else []
    return JackknifedFigures(figures(protocol, parts), tuple(figures(protocol, rows) for rows in others))


def precision_intervals(measured: JackknifedFigures, base: JackknifedFigures | None = None) -> dict[str, Interval]:
    """Compute the interval of every figure, or of its difference from another model's figure on the same images.

    A figure gets no interval if one of the models lacks it, on all images or without some part. For example, a group
    with a single image has no figure without that image, so its spread is unknown.
    """
    intervals = {}
    for name in measured.figures:
        values = _values([measured.figures, *measured.without], name)
        others = np.zeros(len(values)) if base is None else _values([base.figures, *base.without], name)
        gaps = values - others
        if len(gaps) > 2 and not np.isnan(gaps).any():
            intervals[name] = Interval(float(gaps[0]), _half_width(gaps[1:]))
    return intervals


def _values(figures: Sequence[Figures], name: str) -> NDArray[np.float64]:
    return np.array([np.nan if (value := one.get(name)) is None else value for one in figures])


def _half_width(without: NDArray[np.float64]) -> float:
    num_parts = len(without)
    variance = (num_parts - 1) * without.var()
    return float(stdtrit(num_parts - 1, 0.975) * np.sqrt(variance))
