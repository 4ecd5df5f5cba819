"""Detections: scores and outcomes of the predictions of many images. Every bin, metric and corrector takes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raylabel.dataset.annotations import AnnotatedSet
from raylabel.masks.rle import Rle, mask_areas
from raylabel.predictions.context import CONTEXT_FEATURES, image_context
from raylabel.predictions.matching import ImageToMatch, Outcome, detection_weights, match_images
from raylabel.predictions.results_file import SCORE_SLACK


@dataclass(frozen=True, kw_only=True)
class Detections:
    """Detections of any number of images, all fields indexed together.

    Attributes:
        num_classes: foreground classes.
        class_indices: (N,) int32, 0-based predicted classes.
        raw_scores: (N,) float64 in [0, 1].
        image_indices: (N,) int64. Detections with the same number share an image. Any numbering is valid.
        outcomes: (N,) int8 numbers of `Outcome`, or None if the truth is unknown.
        weights: (N,) float64 > 0, the number of detections that each row stands for
            (`verification.weigh_by_verification`).
        context: (N, len(CONTEXT_FEATURES)) float32 features from the image (`context.image_context`). NaN is an unknown
            feature. None: no feature is known.
        mask_areas: (N,) int32 pixels, or None if unknown.

    Raises:
        ValueError: a score or a weight is out of range or NaN.

    Examples:
        >>> from dataclasses import replace
        >>> import numpy as np
        >>> import raylabel as rl
        >>> detections = rl.Detections.of_scores([0, 1, 1], [0.9, 0.4, 0.6], num_classes=2)
        >>> len(detections), detections.subset(detections.raw_scores >= 0.5).class_indices.tolist()
        (3, [0, 1])
        >>> matched = replace(detections, outcomes=np.array([1, 2, 0], np.int8))
        >>> matched.is_correct.tolist(), len(matched.scored())
        ([True, False, False], 2)
    """

    num_classes: int
    class_indices: NDArray[np.int32]
    raw_scores: NDArray[np.float64]
    image_indices: NDArray[np.int64]
    outcomes: NDArray[np.int8] | None
    weights: NDArray[np.float64]
    context: NDArray[np.float32] | None = None
    mask_areas: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        num = len(self.class_indices)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                shape = (num, len(CONTEXT_FEATURES)) if field.name == "context" else (num,)
                assert value.shape == shape, f"{field.name} must have shape {shape}, got {value.shape}"
        assert num == 0 or (self.class_indices.min() >= 0 and self.class_indices.max() < self.num_classes)
        # `not (a and b)`, because NaN must fail too.
        if num and not (self.raw_scores.min() >= -SCORE_SLACK and self.raw_scores.max() <= 1 + SCORE_SLACK):
            raise ValueError(f"raw_scores must be in [0, 1], got {self.raw_scores.min()} to {self.raw_scores.max()}")
        if num and not (self.weights.min() > 0 and np.isfinite(self.weights.max())):
            raise ValueError(f"weights must be > 0 and finite, got {self.weights.min()} to {self.weights.max()}")

    def __len__(self) -> int:
        return len(self.class_indices)

    @staticmethod
    def of_scores(
        class_indices: Any, raw_scores: Any, *, num_classes: int, context: NDArray[np.float32] | None = None
    ) -> "Detections":
        """Build detections without truth, to apply a corrector to. All count as one image."""
        num = len(class_indices)
        return Detections(
            num_classes=num_classes,
            class_indices=np.asarray(class_indices, dtype=np.int32),
            raw_scores=np.asarray(raw_scores, dtype=np.float64),
            image_indices=np.zeros(num, dtype=np.int64),
            outcomes=None,
            weights=np.ones(num),
            context=context,
        )

    @staticmethod
    def empty(num_classes: int) -> "Detections":
        """Return 0 detections with known outcomes, context and areas."""
        nothing = Detections.of_scores([], [], num_classes=num_classes)
        return replace(
            nothing,
            outcomes=np.zeros(0, dtype=np.int8),
            context=np.zeros((0, len(CONTEXT_FEATURES)), dtype=np.float32),
            mask_areas=np.zeros(0, dtype=np.int32),
        )

    @staticmethod
    def concat(parts: Sequence["Detections"]) -> "Detections":
        """Join parts in order.

        Raises:
            ValueError: there is no part, the numbers of classes differ, or only some of the filled parts know a field.
        """
        if len({part.num_classes for part in parts}) != 1:
            raise ValueError(f"parts must agree in num_classes, got {[part.num_classes for part in parts]}")
        filled = [part for part in parts if len(part)] or parts[:1]
        return Detections(
            num_classes=parts[0].num_classes,
            **{name: _joined([getattr(part, name) for part in filled], name) for name in _ARRAYS},
        )

    def subset(self, rows: NDArray[Any] | slice) -> "Detections":
        """Return the chosen rows. `rows` is an index array, a boolean mask or a slice."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        return replace(self, **{name: values[rows] for name, values in arrays.items() if values is not None})

    @property
    def known_outcomes(self) -> NDArray[np.int8]:
        """`outcomes` of matched detections.

        Raises:
            ValueError: the detections were not matched.
        """
        if self.outcomes is None:
            raise ValueError("detections must be matched to the truth first: their outcomes are unknown")
        return self.outcomes

    @property
    def is_scored(self) -> NDArray[np.bool_]:
        """(N,) whether the detection is correct or incorrect, that is, not ignored."""
        return self.known_outcomes != Outcome.IGNORED

    @property
    def is_correct(self) -> NDArray[np.bool_]:
        """(N,) whether the detection is correct."""
        return self.known_outcomes == Outcome.CORRECT

    def scored(self) -> "Detections":
        """Return the detections that are not ignored."""
        return self.subset(self.is_scored)


_ARRAYS = tuple(field.name for field in fields(Detections) if field.name != "num_classes")


def _joined(values: Sequence[NDArray[Any] | None], name: str) -> Any:
    known = [value for value in values if value is not None]
    if known and len(known) < len(values):
        raise ValueError(f"{name} must be known in all parts or in none")
    return np.concatenate(known) if known else None


class ImagePredictions(NamedTuple):
    """The predictions of one image: (N,) classes, (N,) scores, N masks, and their context if it is already known."""

    class_indices: NDArray[np.integer]
    scores: NDArray[np.floating]
    masks: Sequence[Rle]
    context: NDArray[np.float32] | None = None


def match_image(
    annotated: AnnotatedSet,
    row: int,
    predictions: ImagePredictions,
    *,
    class_weights: NDArray[np.float64],
    iou_threshold: float = 0.5,
    with_context: bool = True,
) -> Detections:
    """Match and weigh the predictions of one image of a set. Every `image_indices` is `row`.

    Args:
        annotated: the set with the true objects.
        row: index of the image in `annotated.images`.
        predictions: predictions of the image, in any order.
        class_weights: `verification_weights(annotated)`. `weigh_by_verification` gives better weights after all images
            are matched.
        iou_threshold: smallest mask IoU at which a prediction can be correct.
        with_context: whether the detections get a context. It is computed from the masks if `predictions` lack it.
    """
    return match_rows(
        annotated,
        {row: predictions},
        class_weights=class_weights,
        iou_threshold=iou_threshold,
        with_context=with_context,
    )


def match_rows(
    annotated: AnnotatedSet,
    predictions: Mapping[int, ImagePredictions],
    *,
    class_weights: NDArray[np.float64],
    iou_threshold: float = 0.5,
    with_context: bool = True,
) -> Detections:
    """Match several images at once, in order. `predictions` has indices of `annotated.images` as keys.

    See `match_image`.
    """
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
    outcomes, lengths = match_images(images, iou_threshold=iou_threshold), [len(image.masks) for image in images]
    weights = np.ones(len(outcomes))
    if (class_weights != 1).any():
        for image, rows in zip(images, _slices(lengths), strict=True):
            weights[rows] = detection_weights(outcomes[rows], image.class_indices, class_weights, image.object_classes)
    contexts = [of_image.context for of_image in predictions.values()]
    if with_context:
        contexts = [
            image_context(image.class_indices, image.scores, image.masks) if context is None else context
            for image, context in zip(images, contexts, strict=True)
        ]
    known = [context for context, length in zip(contexts, lengths, strict=True) if length]
    return Detections(
        num_classes=annotated.num_classes,
        class_indices=np.concatenate([image.class_indices for image in images]),
        raw_scores=np.concatenate([image.scores for image in images]).astype(np.float64),
        image_indices=np.repeat(np.fromiter(predictions, dtype=np.int64), lengths),
        outcomes=outcomes,
        weights=weights,
        context=_joined(known or contexts[:1], "context"),
        mask_areas=mask_areas([mask for image in images for mask in image.masks]),
    )


def _slices(lengths: Sequence[int]) -> list[slice]:
    ends = np.cumsum(lengths).tolist()
    return [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]
