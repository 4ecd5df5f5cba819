"""The images that an official evaluator evaluates. It holds their truth and detections as Python objects."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylabel.evaluation.checked_input import IouType

MAX_VERIFIED_DETECTIONS = 500_000
"""Most detections that an official evaluator gets; they take about 3 GiB. If there are more, it gets a sample of the
images."""

SEED = 0
"""Seed of the sample."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Images with their truth and detections, in hotcoco's form.

    Attributes:
        dataset: images, annotations and categories.
        detections: all detections of these images.
        iou_type: what is compared.
        is_federated: whether LVIS's protocol applies, not COCO's.
        of_images: number of images that the sample was drawn from.
    """

    dataset: dict[str, Any]
    detections: list[dict[str, Any]]
    iou_type: IouType
    is_federated: bool
    of_images: int


def draw_sample(num_detections: Sequence[int] | NDArray[np.integer]) -> NDArray[np.bool_]:
    """Draw images at random until their detections exceed MAX_VERIFIED_DETECTIONS, but at least one image.

    Args:
        num_detections: (num_images,) number of detections of each image, or an upper limit of it.

    Returns:
        (num_images,) whether the image is in the sample.
    """
    order = np.random.default_rng(SEED).permutation(len(num_detections))
    num_chosen = np.searchsorted(np.cumsum(np.asarray(num_detections)[order]), MAX_VERIFIED_DETECTIONS, side="right")
    chosen = np.zeros(len(order), dtype=bool)
    chosen[order[: max(1, num_chosen)]] = True
    return chosen
