"""How sure an average precision is: 95% intervals over the images that it was measured on, by the jackknife.

A class's AP hangs on the ranking of all its detections, so it has no variance by image; but leaving out one part of the
images after the other shows how much the images matter (delete-a-group jackknife; Kott, Journal of Official Statistics
17, 2001). The same parts are left out for every model, so that a difference of two gets its own, paired interval. The
randomness of training is not in it: other seeds give other models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as students_t

from raylabel.evaluation.average_precision import IouType, check_results

NUM_PARTS = 20
"""Parts of the images; the interval's Student's t has one degree of freedom less."""

Figures = dict[str, float | None]


@dataclass(frozen=True)
class JackknifedFigures:
    """Figures of one model, and what they are without one part of the images.

    Attributes:
        figures: of all images, as `evaluate_results` gives them.
        without: the same without each part; empty where there are fewer than 2 images.
    """

    figures: Figures
    without: tuple[Figures, ...]


@dataclass(frozen=True)
class Interval:
    """`value` ± `half_width`, 95%."""

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
        annotations: as for `evaluate_results`, and so are `results`, `iou_type`, `frequency_groups` and the errors.
        num_parts: at most; there are never more than images.
        seed: of the parts. Results that are to be compared take the same.
    """
    checked = check_results(annotations, results, iou_type=iou_type, frequency_groups=frequency_groups)
    numbers = np.random.default_rng(seed).permutation(checked.image_numbers)
    parts = np.array_split(numbers, min(num_parts, len(numbers))) if len(numbers) > 1 else []
    everything = set(numbers.tolist())
    without = tuple(checked.of_images(everything - set(part.tolist())).figures() for part in parts)
    return JackknifedFigures(checked.figures(), without)


def precision_intervals(measured: JackknifedFigures, base: JackknifedFigures | None = None) -> dict[str, Interval]:
    """The interval of every figure, or of its difference from another model's on the same images.

    Figures are left out that one of the models lacks, on all images or without some part: a group whose only image was
    left out says nothing of its spread.
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
    return float(students_t.ppf(0.975, num_parts - 1) * np.sqrt(variance))
