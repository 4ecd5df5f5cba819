"""Matching of predictions to true objects, one to one, with crowd regions and federated labels."""

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from hotcoco import COCO, COCOeval
from numpy.typing import NDArray

from raylabel.dataset.annotations import AnnotatedSet, GroundTruth
from raylabel.masks.rle import Rle

_MAX_CLASSES = 2**31
"""A number above every class index."""


class Outcome(IntEnum):
    """The verdict on a detection. Stored tables use these numbers."""

    INCORRECT = 0
    CORRECT = 1
    IGNORED = 2


class ImageToMatch(NamedTuple):
    """One image's predictions and true objects.

    Attributes:
        image_size_hw: height and width in pixels.
        class_indices: (N,) predicted classes.
        scores: (N,) scores. Only their order matters.
        masks: N masks of the image's size.
        object_classes: (M,) classes of the true objects.
        object_is_crowd: (M,) whether each true object is a crowd region.
        object_segmentations: function from places of true objects to their masks, as RLE or COCO polygons. It is called
            once, with the objects that a prediction may match.
        negative_classes: classes that annotators looked for in the image and found absent. None means that annotators
            looked for every class (COCO).
        not_exhaustive_classes: classes with only some of their objects annotated in the image.
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
    """Match one image's predictions to its true objects; see `match_images`."""
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
    """Match the predictions of many images to their true objects, all at once.

    Predictions of an image and class are processed by falling score, ties in the given order. Each prediction takes the
    free true object with the highest mask IoU. It is correct if that IoU reaches the threshold. A prediction that takes
    no object is ignored in three cases:

    - It covers a crowd region of its class: the intersection over its own area reaches the threshold.
    - Its class is neither annotated in the image nor in `negative_classes`.
    - Its class is in `not_exhaustive_classes`.

    All other predictions are incorrect.

    Args:
        images: images in any order.
        iou_threshold: least mask IoU of a match, in [0, 1].

    Returns:
        Numbers of `Outcome` of all predictions, one image after the other.

    Source: COCO's and LVIS's evaluation (pycocotools `COCOeval`, lvis-api `LVISEval`), at one threshold and for all
        areas. hotcoco does the work within an image and class, on all CPUs.
    """
    for image in images:
        size_hw = list(image.image_size_hw)
        assert all(list(mask["size"]) == size_hw for mask in image.masks), "masks must have the size of their image"
    detection_keys = _keys(images, [image.class_indices for image in images])
    object_keys = _keys(images, [image.object_classes for image in images])
    outcomes = np.full(len(detection_keys), Outcome.INCORRECT, dtype=np.int8)
    has_objects = np.isin(detection_keys, object_keys)
    outcomes[~_is_judged(images, detection_keys, has_objects)] = Outcome.IGNORED
    rows, objects = np.flatnonzero(has_objects), np.flatnonzero(np.isin(object_keys, detection_keys))
    if len(rows):
        is_matched, is_in_crowd = _match_with_hotcoco(
            images, rows, detection_keys[rows], objects, object_keys[objects], iou_threshold
        )
        outcomes[rows[is_in_crowd]] = Outcome.IGNORED
        outcomes[rows[is_matched & ~is_in_crowd]] = Outcome.CORRECT
    return outcomes


def _keys(images: Sequence[ImageToMatch], classes: Sequence[NDArray[np.integer]]) -> NDArray[np.int64]:
    """Encode each (image, class) as one number."""
    image_numbers = np.repeat(np.arange(len(images)), [len(of_image) for of_image in classes])
    return image_numbers * _MAX_CLASSES + np.concatenate([np.zeros(0, np.int64), *classes])


def _is_judged(
    images: Sequence[ImageToMatch], detection_keys: NDArray[np.int64], has_objects: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Tell which predictions are incorrect if they take no object: their class is fully annotated in their image."""
    is_judged = np.ones(len(detection_keys), dtype=bool)
    if any(image.negative_classes is not None for image in images):
        is_federated = np.array([image.negative_classes is not None for image in images])
        negative = _keys(images, [np.array(sorted(image.negative_classes or ()), np.int64) for image in images])
        is_judged = has_objects | np.isin(detection_keys, negative) | ~is_federated[detection_keys // _MAX_CLASSES]
    if any(image.not_exhaustive_classes for image in images):
        partly = _keys(images, [np.array(sorted(image.not_exhaustive_classes), np.int64) for image in images])
        is_judged &= ~np.isin(detection_keys, partly)
    return is_judged


def _match_with_hotcoco(
    images: Sequence[ImageToMatch],
    rows: NDArray[np.int64],
    row_keys: NDArray[np.int64],
    objects: NDArray[np.int64],
    object_keys: NDArray[np.int64],
    iou_threshold: float,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Match predictions to objects with hotcoco.

    `rows` and `objects` index the predictions and objects of all images. Their keys encode (image, class). Each key of
    one side must occur on the other side. Data passes in columns, because a dict per prediction and object would add a
    fifth to the time.

    Returns:
        Per prediction, whether it matches an object or crowd region, and whether it matches a crowd region.
    """
    masks = [
        image.masks[place]
        for image, places in zip(images, _split(rows, [len(image.masks) for image in images]), strict=True)
        for place in places.tolist()
    ]
    objects_of_image = _split(objects, [len(image.object_classes) for image in images])
    segmentations = [
        segmentation
        for image, places in zip(images, objects_of_image, strict=True)
        if len(places)
        for segmentation in image.object_segmentations(places)
    ]
    image_numbers, classes = np.divmod(object_keys, _MAX_CLASSES)
    truth = COCO.from_arrays(
        images=[
            {"id": number, "height": images[number].image_size_hw[0], "width": images[number].image_size_hw[1]}
            for number in np.unique(image_numbers).tolist()
        ],
        categories=[{"id": one, "name": str(one)} for one in np.unique(classes).tolist()],
        image_ids=image_numbers,
        category_ids=classes,
        boxes=np.zeros((len(objects), 4)),
        area=np.zeros(len(objects)),
        iscrowd=np.concatenate([image.object_is_crowd for image in images])[objects],
        segmentation=segmentations,
    )
    results = np.zeros((len(rows), 7))  # image, box, score, class; boxes stay 0 because all areas count
    results[:, 0], results[:, 6] = np.divmod(row_keys, _MAX_CLASSES)
    results[:, 5] = np.concatenate([image.scores for image in images])[rows]
    evaluation = COCOeval(truth, truth.load_res(results, segmentation=masks), "segm")
    evaluation.params.iou_thrs, evaluation.params.max_dets = [iou_threshold], [len(rows)]
    evaluation.params.area_rng, evaluation.params.area_rng_lbl = [[-np.inf, np.inf]], ["all"]
    evaluation.evaluate()
    ids, is_matched, is_ignored = list[int](), list[bool](), list[bool]()
    for found in evaluation.eval_imgs:
        if found is not None:
            ids += found["dtIds"]
            is_matched += found["dtMatched"][0]
            is_ignored += found["dtIgnore"][0]
    order = np.argsort(ids)  # ids number the results from 1
    assert len(order) == len(rows), "every prediction must be evaluated"
    return np.array(is_matched, dtype=bool)[order], np.array(is_ignored, dtype=bool)[order]


def _split(places: NDArray[np.int64], lengths: Sequence[int]) -> list[NDArray[np.int64]]:
    """Split rising places in concatenated arrays of these lengths into places within each array."""
    ends = np.cumsum(lengths)
    parts = np.split(places, np.searchsorted(places, ends[:-1]))
    return [part - start for part, start in zip(parts, (ends - lengths).tolist(), strict=True)]


def verification_weights(annotated: AnnotatedSet) -> NDArray[np.float64]:
    """Compute how many images without a class each verified image stands for, shape (num_classes,), each >= 1.

    Federated annotators look for a class in few images. Correct detections always count, but incorrect ones count only
    where someone looked. Plain accuracy is therefore too high. Horvitz-Thompson weights correct this. The weight of an
    incorrect detection, in an image that is verified through its negative classes, is

        number of images without the class / number of images verified to be without it

    The formula assumes that every image that has a class also has an annotation of it. Fully annotated sets
    have weight 1, and so do classes that no image was verified for.

    Source: Horvitz and Thompson 1952. Using it for federated detection labels is raylabel's idea.
    """
    weights = np.ones(annotated.num_classes)
    if not annotated.is_federated:
        return weights
    num_verified = np.bincount(annotated.negative_class_lists.values, minlength=annotated.num_classes)
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
    """Compute the weight of each detection of one image, shape (N,).

    An incorrect detection has its class's weight if only the image's negative classes verify it. All others have 1.

    Args:
        outcomes: (N,) from `match_predictions`.
        class_indices: (N,) predicted classes.
        class_weights: (num_classes,) from `verification_weights`.
        annotated_classes: classes with an annotation in the image.
    """
    is_annotated = np.isin(class_indices, list(annotated_classes))
    return np.where((outcomes == Outcome.INCORRECT) & ~is_annotated, class_weights[class_indices], 1.0)
