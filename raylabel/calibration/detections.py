"""Detections: scores and outcomes of many images' predictions, the input of every bin, metric and corrector."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raylabel.dataset.annotations import AnnotatedSet
from raylabel.masks import Rle
from raylabel.matching import ImageToMatch, Outcome, detection_weights, match_images, verification_weights
from raylabel.threads import map_on_threads

_MASKS_AT_A_TIME = 2000
"""Enough for all CPUs to have work in a batch, few enough for one to be prepared while another is worked on."""


@dataclass(frozen=True, kw_only=True)
class Detections:
    """Detections of any number of images, all fields indexed together.

    Attributes:
        num_classes: foreground classes.
        class_indices: (N,) int32, 0-based predicted classes.
        raw_scores: (N,) float64 in [0, 1].
        image_indices: (N,) int64: which detections share an image; any numbering.
        outcomes: (N,) int8 numbers of `Outcome`, or None where the truth is unknown.
        weights: (N,) float64 > 0: how many detections each one stands for (`matching.verification_weights`).
    """

    num_classes: int
    class_indices: NDArray[np.int32]
    raw_scores: NDArray[np.float64]
    image_indices: NDArray[np.int64]
    outcomes: NDArray[np.int8] | None
    weights: NDArray[np.float64]

    def __post_init__(self) -> None:
        num = len(self.class_indices)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                assert value.shape == (num,), f"{field.name} must have shape {(num,)}, got {value.shape}"
        assert num == 0 or (self.class_indices.min() >= 0 and self.class_indices.max() < self.num_classes)

    def __len__(self) -> int:
        return len(self.class_indices)

    @staticmethod
    def of_scores(class_indices: Any, raw_scores: Any, *, num_classes: int) -> "Detections":
        """Detections of which only class and score are known, to apply a corrector to; they count as one image."""
        num = len(class_indices)
        return Detections(
            num_classes=num_classes,
            class_indices=np.asarray(class_indices, dtype=np.int32),
            raw_scores=np.asarray(raw_scores, dtype=np.float64),
            image_indices=np.zeros(num, dtype=np.int64),
            outcomes=None,
            weights=np.ones(num),
        )

    @staticmethod
    def empty(num_classes: int) -> "Detections":
        """No detection, of known outcome."""
        nothing = Detections.of_scores([], [], num_classes=num_classes)
        return replace(nothing, outcomes=np.zeros(0, dtype=np.int8))

    @staticmethod
    def concat(parts: Sequence["Detections"]) -> "Detections":
        """One after the other; all of the same classes, and all with outcomes or none.

        Raises:
            ValueError: no part, or parts of different numbers of classes.
        """
        if len({part.num_classes for part in parts}) != 1:
            raise ValueError(f"parts must agree in num_classes, got {[part.num_classes for part in parts]}")
        return Detections(
            num_classes=parts[0].num_classes,
            class_indices=np.concatenate([part.class_indices for part in parts]),
            raw_scores=np.concatenate([part.raw_scores for part in parts]),
            image_indices=np.concatenate([part.image_indices for part in parts]),
            outcomes=None if parts[0].outcomes is None else np.concatenate([part.known_outcomes for part in parts]),
            weights=np.concatenate([part.weights for part in parts]),
        )

    def subset(self, rows: NDArray[Any] | slice) -> "Detections":
        """The chosen rows: an index array, a boolean mask or a slice."""
        return Detections(
            num_classes=self.num_classes,
            class_indices=self.class_indices[rows],
            raw_scores=self.raw_scores[rows],
            image_indices=self.image_indices[rows],
            outcomes=None if self.outcomes is None else self.outcomes[rows],
            weights=self.weights[rows],
        )

    @property
    def known_outcomes(self) -> NDArray[np.int8]:
        """`outcomes`, of detections that were matched.

        Raises:
            ValueError: they were not.
        """
        if self.outcomes is None:
            raise ValueError("detections must be matched to the truth first: their outcomes are unknown")
        return self.outcomes

    @property
    def is_scored(self) -> NDArray[np.bool_]:
        """(N,) whether the detection counts: it is correct or incorrect, not ignored."""
        return self.known_outcomes != Outcome.IGNORED

    @property
    def is_correct(self) -> NDArray[np.bool_]:
        """(N,) whether the detection is correct."""
        return self.known_outcomes == Outcome.CORRECT

    def scored(self) -> "Detections":
        """Without those that are ignored."""
        return self.subset(self.is_scored)


class ImagePredictions(NamedTuple):
    """One image's predictions: (N,) classes, (N,) scores and N masks."""

    class_indices: NDArray[np.integer]
    scores: NDArray[np.floating]
    masks: Sequence[Rle]


def match_image(
    annotated: AnnotatedSet,
    row: int,
    predictions: ImagePredictions,
    *,
    class_weights: NDArray[np.float64],
    iou_threshold: float = 0.5,
) -> Detections:
    """Match and weigh the predictions of one image of a set; `image_indices` are `row`.

    Args:
        annotated: the set of the true objects.
        row: the image's place in `annotated.images`.
        predictions: of that image, in any order.
        class_weights: `verification_weights(annotated)`.
        iou_threshold: mask IoU from which a prediction can be correct.
    """
    return _match_rows(annotated, {row: predictions}, class_weights, iou_threshold)


def match_set(
    annotated: AnnotatedSet, predictions: Mapping[int, ImagePredictions], *, iou_threshold: float = 0.5
) -> Detections:
    """Match the predictions of a whole set, keyed by the images' places in `annotated.images`; rows in key order.

    The same as `match_image` of each, many images at once and on as many threads as there are CPUs.
    """
    class_weights = verification_weights(annotated)
    parts = [{row: predictions[row] for row in rows} for rows in _batches(predictions)]
    found = map_on_threads(lambda part: _match_rows(annotated, part, class_weights, iou_threshold), parts)
    return Detections.concat([Detections.empty(annotated.num_classes), *found])


def _batches(predictions: Mapping[int, ImagePredictions]) -> list[list[int]]:
    """Rows in order, in batches of `_MASKS_AT_A_TIME` masks or a little more."""
    batches, num_masks = list[list[int]](), _MASKS_AT_A_TIME
    for row in sorted(predictions):
        if num_masks >= _MASKS_AT_A_TIME:
            batches.append([])
            num_masks = 0
        batches[-1].append(row)
        num_masks += len(predictions[row].masks)
    return batches


def _match_rows(
    annotated: AnnotatedSet,
    predictions: Mapping[int, ImagePredictions],
    class_weights: NDArray[np.float64],
    iou_threshold: float,
) -> Detections:
    images = [
        ImageToMatch(
            image_size_hw=annotated.images[row].image_size_hw,
            class_indices=np.asarray(of_image.class_indices, dtype=np.int32),
            scores=np.asarray(of_image.scores),
            masks=of_image.masks,
            object_classes=annotated.object_classes(row),
            object_is_crowd=annotated.object_is_crowd(row),
            object_segmentations=partial(annotated.object_segmentations, row),
            negative_classes=annotated.images[row].negative_classes if annotated.is_federated else None,
            not_exhaustive_classes=annotated.images[row].not_exhaustive_classes,
        )
        for row, of_image in predictions.items()
    ]
    outcomes = match_images(images, iou_threshold=iou_threshold)
    lengths = [len(image.class_indices) for image in images]
    weights = np.ones(len(outcomes))
    if (class_weights != 1).any():
        parts = np.split(outcomes, np.cumsum(lengths)[:-1])
        weights = np.concatenate(
            [
                detection_weights(part, image.class_indices, class_weights, image.object_classes)
                for image, part in zip(images, parts, strict=True)
            ]
        )
    return Detections(
        num_classes=annotated.num_classes,
        class_indices=np.concatenate([image.class_indices for image in images]),
        raw_scores=np.concatenate([image.scores for image in images]).astype(np.float64),
        image_indices=np.repeat(np.fromiter(predictions, dtype=np.int64), lengths),
        outcomes=outcomes,
        weights=weights,
    )
