"""AP on a few validation images during training."""

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch

from raylabel.dataset.annotations import AnnotatedSet
from raylabel.evaluation.average_precision import (
    MAX_RESULTS_PER_IMAGE,
    MIN_RESULT_SCORE,
    evaluate_results,
    results_of_image,
)
from raylabel.models.segmenter import Segmenter
from raylabel.training.examples import image_tensor

FIGURES = ("AP", "APr", "APc", "APf")


class ValidationAP:
    """A `job.Evaluate` that computes mask AP.

    Args:
        load: loads the validation split. The first evaluation calls it.
        num_images: number of images to predict, evenly spaced over the split.
        frequency_groups: category id -> "r", "c" or "f", by training images.
        max_pixels: largest image to read; larger images raise InputError.
    """

    def __init__(
        self,
        load: Callable[[], AnnotatedSet],
        *,
        num_images: int,
        frequency_groups: dict[int, str],
        max_pixels: int,
    ) -> None:
        self._load, self._num_images = load, num_images
        self._frequency_groups, self._max_pixels = frequency_groups, max_pixels

    @cached_property
    def _annotated(self) -> AnnotatedSet:
        everything = self._load()
        num = min(self._num_images, len(everything))
        return everything.subset(np.linspace(0, len(everything) - 1, num).round().astype(int).tolist())

    def __call__(self, segmenter: Segmenter) -> dict[str, float]:
        """Compute mask AP, and the AP of each frequency group that has an object, in [0, 1].

        Raises:
            InputError: an image cannot be read. The message names it.
        """
        annotated = self._annotated
        device = next(one.device for _, one in segmenter.named_parameters())
        rows = []
        for image in annotated.images:
            pixels = image_tensor(image.source, max_pixels=self._max_pixels)
            with torch.inference_mode():
                [found] = segmenter.predict(
                    [pixels.to(device)], score_threshold=MIN_RESULT_SCORE, max_per_image=MAX_RESULTS_PER_IMAGE
                )
            rows += results_of_image(image.image_id, found.masks, found.soft_vectors, annotated.category_ids)
        figures = evaluate_results(annotated.to_json(), rows, frequency_groups=self._frequency_groups)
        return {name: value for name in FIGURES if (value := figures.get(name)) is not None}
