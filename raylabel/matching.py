"""Which predictions are right: one-to-one matching to the true objects, with crowd regions and federated labels."""

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raylabel.dataset.annotations import AnnotatedSet, GroundTruth
from raylabel.masks import Rle, decode_rles, decode_segmentations
from raylabel.runs import MaskPairs

_MAX_IOU_THRESHOLD = 1 - 1e-10
"""pycocotools' bound: a threshold of 1 must not fail on rounding."""

_MAX_CLASSES = 2**31
"""Above every class index."""


class Outcome(IntEnum):
    """What the truth says of a detection; the numbers are those of the stored tables."""

    INCORRECT = 0
    CORRECT = 1
    IGNORED = 2


class ImageToMatch(NamedTuple):
    """One image's predictions and true objects.

    Attributes:
        image_size_hw: height and width in pixels.
        class_indices: (N,) predicted classes.
        scores: (N,) scores; only their order matters.
        masks: N masks of the image's size.
        object_classes: (M,) classes of the true objects.
        object_is_crowd: (M,) which of them are crowd regions.
        object_segmentations: from the places of some true objects to their masks, as RLE or COCO polygons; asked once,
            for those that a prediction may match.
        negative_classes: classes that were looked for in the image and are absent; None where every class was
            looked for (COCO).
        not_exhaustive_classes: classes of which only some objects are annotated in the image.
    """

    image_size_hw: tuple[int, int]
    class_indices: NDArray[np.integer]
    scores: NDArray[np.floating]
    masks: Sequence[Rle]
    object_classes: NDArray[np.integer]
    object_is_crowd: NDArray[np.bool_]
    object_segmentations: Callable[[NDArray[np.integer]], Sequence[Any]]
    negative_classes: frozenset[int] | None
    not_exhaustive_classes: frozenset[int]


def match_predictions(
    *,
    class_indices: NDArray[np.integer],
    scores: NDArray[np.floating],
    masks: Sequence[Rle],
    truth: GroundTruth,
    negative_classes: frozenset[int] | None,
    not_exhaustive_classes: frozenset[int] = frozenset(),
    iou_threshold: float = 0.5,
) -> NDArray[np.int8]:
    """Match one image's predictions to its true objects: `match_images` of one."""
    image = ImageToMatch(
        image_size_hw=truth.image_size_hw,
        class_indices=class_indices,
        scores=scores,
        masks=masks,
        object_classes=truth.class_indices,
        object_is_crowd=truth.is_crowd,
        object_segmentations=lambda places: [truth.masks[place] for place in places],
        negative_classes=negative_classes,
        not_exhaustive_classes=not_exhaustive_classes,
    )
    return match_images([image], iou_threshold=iou_threshold)


def match_images(images: Sequence[ImageToMatch], *, iou_threshold: float = 0.5) -> NDArray[np.int8]:
    """Match the predictions of many images to their true objects, all pairs at once.

    Per image and class, from the highest score down (ties in the order given), a prediction takes the still free true
    object with the highest mask IoU and is correct where that reaches the threshold. One that takes no object is
    ignored where it covers a crowd region of its class (intersection over its own area reaches the threshold), where
    the class is neither annotated in the image nor in `negative_classes`, or where the class is in
    `not_exhaustive_classes`. Everything else is incorrect.

    Args:
        images: in any order.
        iou_threshold: mask IoU from which a match counts, in [0, 1].

    Returns:
        numbers of `Outcome` of all predictions, one image after the other.

    Source: COCO's and LVIS's evaluation (pycocotools `COCOeval`, lvis-api `LVISEval`), at one threshold and all areas.
    """
    threshold = min(iou_threshold, _MAX_IOU_THRESHOLD)
    detection_keys = _keys(images, [image.class_indices for image in images])
    object_keys = _keys(images, [image.object_classes for image in images])
    outcomes = np.full(len(detection_keys), Outcome.INCORRECT, dtype=np.int8)
    has_objects = np.isin(detection_keys, object_keys)
    outcomes[~_is_judged(images, detection_keys, has_objects)] = Outcome.IGNORED
    detections, objects = _equal_pairs(detection_keys, object_keys)
    if not len(detections):
        return outcomes
    is_crowd = np.concatenate([np.asarray(image.object_is_crowd, dtype=bool) for image in images])
    detections, objects, iou = _overlapping(images, detections, objects, is_crowd, threshold)
    crowd_pairs = is_crowd[objects]
    outcomes[detections[crowd_pairs]] = Outcome.IGNORED
    detections, objects, iou = detections[~crowd_pairs], objects[~crowd_pairs], iou[~crowd_pairs]
    scores = np.concatenate([np.asarray(image.scores) for image in images])
    outcomes[_take_greedily(detections, objects, iou, scores)] = Outcome.CORRECT
    return outcomes


def _keys(images: Sequence[ImageToMatch], classes: Sequence[NDArray[np.integer]]) -> NDArray[np.int64]:
    """A number for each image and class."""
    image_numbers = np.repeat(np.arange(len(images)), [len(of_image) for of_image in classes])
    return image_numbers * _MAX_CLASSES + np.concatenate([np.zeros(0, np.int64), *classes])


def _is_judged(
    images: Sequence[ImageToMatch], detection_keys: NDArray[np.int64], has_objects: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Whether a prediction that takes no object is incorrect: every object of its class is annotated in its image."""
    is_judged = np.ones(len(detection_keys), dtype=bool)
    if any(image.negative_classes is not None for image in images):
        is_federated = np.array([image.negative_classes is not None for image in images])
        negative = _keys(images, [np.array(sorted(image.negative_classes or ()), np.int64) for image in images])
        is_judged = has_objects | np.isin(detection_keys, negative) | ~is_federated[detection_keys // _MAX_CLASSES]
    if any(image.not_exhaustive_classes for image in images):
        partly = _keys(images, [np.array(sorted(image.not_exhaustive_classes), np.int64) for image in images])
        is_judged &= ~np.isin(detection_keys, partly)
    return is_judged


def _equal_pairs(
    detection_keys: NDArray[np.int64], object_keys: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every prediction with every true object of its image and class, by prediction."""
    order = np.argsort(object_keys, kind="stable")
    sorted_keys = object_keys[order]
    starts = np.searchsorted(sorted_keys, detection_keys, side="left")
    num_objects = np.searchsorted(sorted_keys, detection_keys, side="right") - starts
    detections = np.repeat(np.arange(len(detection_keys)), num_objects)
    return detections, order[_ranges(starts, num_objects)]


def _overlapping(
    images: Sequence[ImageToMatch],
    detections: NDArray[np.int64],
    objects: NDArray[np.int64],
    is_crowd: NDArray[np.bool_],
    threshold: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The pairs whose overlap reaches the threshold, and it: IoU, or the covered share of the prediction in a crowd."""
    first_detections = np.concatenate([[0], np.cumsum([len(image.masks) for image in images])])
    first_objects = np.concatenate([[0], np.cumsum([len(image.object_classes) for image in images])])
    used_detections, detections_used = np.unique(detections, return_inverse=True)
    used_objects, objects_used = np.unique(objects, return_inverse=True)
    masks: list[Rle] = []
    segmentations: list[Any] = []
    sizes_hw: list[tuple[int, int]] = []
    detection_bounds = np.searchsorted(used_detections, first_detections).tolist()
    object_bounds = np.searchsorted(used_objects, first_objects).tolist()
    for number, image in enumerate(images):
        if detection_bounds[number] < detection_bounds[number + 1]:
            chosen = used_detections[detection_bounds[number] : detection_bounds[number + 1]] - first_detections[number]
            masks.extend([image.masks[place] for place in chosen.tolist()])
            places = used_objects[object_bounds[number] : object_bounds[number + 1]] - first_objects[number]
            segmentations.extend(image.object_segmentations(places))
            sizes_hw.extend([image.image_size_hw] * len(places))
    runs = decode_rles(masks)
    object_runs, object_places = decode_segmentations(segmentations, np.array(sizes_hw, dtype=np.int64).reshape(-1, 2))
    objects_used = object_places[objects_used]
    areas, object_areas = runs.areas[detections_used], object_runs.areas[objects_used]
    in_crowd = is_crowd[objects]
    rows = np.arange(len(detections))
    iou = _overlap(np.minimum(areas, object_areas), areas, object_areas, in_crowd)
    # Three steps, each dearer than the one before and for the pairs only that it left.
    for count in (MaskPairs.most_in_common, MaskPairs.num_in_common):
        rows = rows[iou >= threshold]
        in_common = count(MaskPairs(runs, detections_used[rows], object_runs, objects_used[rows]))
        iou = _overlap(in_common, areas[rows], object_areas[rows], in_crowd[rows])
    reached = iou >= threshold
    return detections[rows[reached]], objects[rows[reached]], iou[reached]


def _overlap(
    common: NDArray[np.int64], areas: NDArray[np.int64], object_areas: NDArray[np.int64], in_crowd: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """IoU, or the share of the prediction where the object is a crowd region; 0 of nothing."""
    whole = np.where(in_crowd, areas, areas + object_areas - common)
    return common / np.maximum(whole, 1)


def _take_greedily(
    detections: NDArray[np.int64], objects: NDArray[np.int64], iou: NDArray[np.float64], scores: NDArray[np.floating]
) -> list[int]:
    """The predictions that get a free object, from the highest score down; of equally good ones the last, as in COCO.

    An object has pairs with predictions of its own image and class only, so that one order serves all of them.
    """
    order = np.lexsort((-objects, -iou, detections, -scores[detections]))
    is_taken, done, correct = set[int](), -1, list[int]()
    for detection, one in zip(detections[order].tolist(), objects[order].tolist(), strict=True):
        if detection != done and one not in is_taken:
            is_taken.add(one)
            correct.append(detection)
            done = detection
    return correct


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The whole numbers from each start on, one range after the other."""
    before = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts - before, lengths)


def verification_weights(annotated: AnnotatedSet) -> NDArray[np.float64]:
    """How many images without a class each verified one stands for, shape (num_classes,), each >= 1.

    Federated annotators look for a class in few images only. Right detections are always counted, wrong ones only
    where someone looked, so plain accuracy is too high. Horvitz-Thompson: a wrong detection in an image that was
    verified through its negative classes counts

        number of images without the class / number of images verified to be without it

    times. An image is without a class where the class is not annotated in it: the formula takes the annotated
    images to be all that have the class. Fully annotated sets, and classes that no image was verified for, get 1.

    Source: Horvitz and Thompson 1952; its use for federated detection labels is ours.
    """
    weights = np.ones(annotated.num_classes)
    if not annotated.is_federated:
        return weights
    num_verified = np.zeros(annotated.num_classes)
    for image in annotated.images:
        num_verified[list(image.negative_classes)] += 1
    num_without_class = len(annotated.images) - annotated.class_image_counts()
    is_known = num_verified > 0
    weights[is_known] = np.maximum(num_without_class[is_known] / num_verified[is_known], 1.0)
    return weights


def detection_weights(
    outcomes: NDArray[np.int8],
    class_indices: NDArray[np.integer],
    class_weights: NDArray[np.float64],
    annotated_classes: frozenset[int] | NDArray[np.integer],
) -> NDArray[np.float64]:
    """Weight of each detection of one image, shape (N,): the class's where it is incorrect and only the image's
    negative classes verified it, else 1.

    Args:
        outcomes: (N,) from `match_predictions`.
        class_indices: (N,) predicted classes.
        class_weights: (num_classes,) from `verification_weights`.
        annotated_classes: classes with an annotation in the image.
    """
    is_annotated = np.isin(class_indices, list(annotated_classes))
    return np.where((outcomes == Outcome.INCORRECT) & ~is_annotated, class_weights[class_indices], 1.0)
