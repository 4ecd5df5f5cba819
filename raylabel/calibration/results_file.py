"""Detections from the COCO or LVIS results file of any detector. No image and no model is needed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylabel.calibration.detections import Detections, ImagePredictions
from raylabel.calibration.match_set import match_set
from raylabel.dataset.annotations import AnnotatedSet
from raylabel.errors import InputError
from raylabel.files.storage import read_json
from raylabel.masks.rle import Rle, first_bad_rle, rle_from_segmentation
from raylabel.predictions.context import CONTEXT_FEATURES, MODEL_FEATURES, image_context, soft_vector_features
from raylabel.predictions.instances import Instances


def read_detections(predictions: str, annotated: AnnotatedSet, *, iou_threshold: float = 0.5) -> Detections:
    """Read a results file and match it. The detections keep the order of the file.

    `image_indices` index `annotated.images`.

    Args:
        predictions: COCO/LVIS results JSON, path or URI. Its entries may have the fields MODEL_FEATURES, in [0, 1].
        annotated: the truth of the same images.
        iou_threshold: smallest mask IoU of a correct detection, in [0, 1].

    Raises:
        InputError: the file is missing or malformed. The message names the entry.

    Examples:
        >>> import json, pathlib, tempfile
        >>> import numpy as np
        >>> import raylabel as rl
        >>> square = np.zeros((8, 8), bool)
        >>> square[2:6, 2:6] = True
        >>> [mask] = rl.encode_masks(square[None])
        >>> mask["counts"] = mask["counts"].decode()
        >>> truth = {"image_id": 1, "category_id": 7, "segmentation": mask, "bbox": [2, 2, 4, 4], "area": 16}
        >>> content = {
        ...     "images": [{"id": 1, "file_name": "a.jpg", "height": 8, "width": 8}],
        ...     "annotations": [{"id": 1, "iscrowd": 0} | truth],
        ...     "categories": [{"id": 7, "name": "cat"}],
        ... }
        >>> results = [{"image_id": 1, "category_id": 7, "segmentation": mask, "score": 0.9}]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     annotations, predictions = pathlib.Path(folder, "a.json"), pathlib.Path(folder, "p.json")
        ...     written = annotations.write_text(json.dumps(content)), predictions.write_text(json.dumps(results))
        ...     detections = rl.read_detections(str(predictions), rl.read_annotations(str(annotations)))
        >>> detections.raw_scores.tolist(), detections.outcomes.tolist()
        ([0.9], [1])
    """
    entries = read_entries(predictions)
    row_of = {image.image_id: row for row, image in enumerate(annotated.images)}
    rows = [_look_up(predictions, entry, one, "image_id", row_of) for entry, one in enumerate(entries)]
    classes, scores = _classes_and_scores(predictions, entries, annotated.class_index_of)
    masks = _masks(predictions, entries, [annotated.images[row].image_size_hw for row in rows])
    of_image = _by_image(rows)
    found = match_set(
        annotated,
        {
            row: ImagePredictions(classes[chosen], scores[chosen], [masks[entry] for entry in chosen])
            for row, chosen in of_image.items()
        },
        iou_threshold=iou_threshold,
    )
    found = found.subset(np.argsort(np.concatenate([of_image[row] for row in sorted(of_image)])))
    assert found.context is not None
    return replace(found, context=_with_model_features(predictions, entries, found.context))


def unmatched_detections(
    path: str, entries: list[dict[str, Any]], class_index_of: Mapping[Any, int], *, with_context: bool = True
) -> Detections:
    """Build detections without truth from the entries of a results file, in the order of the file.

    Args:
        path: path of the file, for messages.
        entries: output of `read_entries`.
        class_index_of: category id -> class index.
        with_context: whether to read the masks (RLE) and compute the context. The size of an RLE is the image size.

    Raises:
        InputError: an entry is malformed, or its category is unknown.
    """
    classes, scores = _classes_and_scores(path, entries, class_index_of)
    if not with_context:
        return Detections.of_scores(classes, scores, num_classes=len(class_index_of))
    for row, one in enumerate(entries):
        if not isinstance(one.get("image_id"), int | float | str):
            raise InputError(f"{path}: entry {row} has no image_id, which a contextual corrector needs")
    masks = _masks(path, entries, [_mask_size(path, row, one) for row, one in enumerate(entries)])
    context = np.zeros((len(entries), len(CONTEXT_FEATURES)), np.float32)
    for image_id, chosen in _by_image([one["image_id"] for one in entries]).items():
        of_image = [masks[row] for row in chosen]
        if any(mask["size"] != of_image[0]["size"] for mask in of_image):
            raise InputError(f"{path}: entry {chosen[0]}: masks of image {image_id} differ in size")
        context[chosen] = image_context(classes[chosen], scores[chosen], of_image)
    context = _with_model_features(path, entries, context)
    return Detections.of_scores(classes, scores, num_classes=len(class_index_of), context=context)


def read_entries(path: str) -> list[dict[str, Any]]:
    """Read the entries of a results file. Each must be an object; its fields are not checked.

    Raises:
        InputError: the file is missing, is not a list, or is empty.
    """
    entries = read_json(path)
    if not isinstance(entries, list):
        raise InputError(f"{path}: results must be a list of detections, got {type(entries).__name__}")
    if not entries:
        raise InputError(f"{path}: results hold no detection")
    for row, one in enumerate(entries):
        if not isinstance(one, dict):
            raise InputError(f"{path}: entry {row} must be an object, got {type(one).__name__}")
    return entries


def results_entries(
    image_id: int | str, instances: Instances, category_ids: Sequence[int] | NDArray[np.integer]
) -> list[dict[str, Any]]:
    """Return the instances of one image as entries of a results file, with the fields MODEL_FEATURES.

    Read back, the entries have the context of `instances_context`. A corrector of raylabel's models can thus correct a
    results file of them.

    Args:
        image_id: id of the image in the results file.
        instances: all predictions of the image.
        category_ids: (num_classes,) category id of each class, such as `Run.classes.category_ids`.
    """
    columns = {
        "score": instances.raw_scores,
        "mask_quality": instances.mask_quality,
        **soft_vector_features(instances.class_indices, instances.soft_vectors),
    }
    return [
        {
            "image_id": image_id,
            "category_id": int(category_ids[instances.class_indices[row]]),
            "segmentation": {"size": list(mask["size"]), "counts": mask["counts"].decode()},
            **{name: float(values[row]) for name, values in columns.items()},
        }
        for row, mask in enumerate(instances.masks)
    ]


def _with_model_features(
    path: str, entries: Sequence[Mapping[str, Any]], context: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Fill the context features that are fields of the entries. Each is in all entries or in none."""
    filled = context.copy()
    for name in MODEL_FEATURES:
        has = [name in one for one in entries]
        if not any(has):
            continue
        if not all(has):
            raise InputError(f"{path}: entry {has.index(False)} has no {name}, but entry {has.index(True)} has one")
        filled[:, CONTEXT_FEATURES.index(name)] = [_share(path, row, one, name) for row, one in enumerate(entries)]
    return filled


def _look_up(path: str, row: int, entry: dict[str, Any], name: str, places: Mapping[Any, int]) -> int:
    if name not in entry:
        raise InputError(f"{path}: entry {row} has no {name}")
    value = entry[name]
    if isinstance(value, bool) or not isinstance(value, int | float | str) or value not in places:
        raise InputError(f"{path}: entry {row}: unknown {name} {value!r}")
    return places[value]


def _share(path: str, row: int, entry: Mapping[str, Any], name: str) -> float:
    """Return a field of an entry that must be a number in [0, 1]."""
    if name not in entry:
        raise InputError(f"{path}: entry {row} has no {name}")
    value = entry[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or not 0 <= value <= 1:
        raise InputError(f"{path}: entry {row}: {name} must be a number in [0, 1], got {value!r}")
    return float(value)


def _classes_and_scores(
    path: str, entries: list[dict[str, Any]], class_index_of: Mapping[Any, int]
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    classes = [_look_up(path, row, one, "category_id", class_index_of) for row, one in enumerate(entries)]
    scores = [_share(path, row, one, "score") for row, one in enumerate(entries)]
    return np.array(classes, dtype=np.int32), np.array(scores, dtype=np.float64)


def _by_image(image_of: Sequence[Any]) -> dict[Any, NDArray[np.int64]]:
    """Map each image to the positions of its entries, in order."""
    places: dict[Any, list[int]] = {}
    for place, image in enumerate(image_of):
        places.setdefault(image, []).append(place)
    return {image: np.array(of_image, dtype=np.int64) for image, of_image in places.items()}


def _masks(path: str, entries: list[dict[str, Any]], sizes_hw: Sequence[tuple[int, int]]) -> list[Rle]:
    masks = []
    for row, (one, size_hw) in enumerate(zip(entries, sizes_hw, strict=True)):
        if one.get("segmentation") is None:
            raise InputError(f"{path}: entry {row} has no segmentation: detections are matched by masks, not by boxes")
        try:
            masks.append(rle_from_segmentation(one["segmentation"], size_hw, check=False))
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}: entry {row} (image {one['image_id']}): {error}") from error
    bad = first_bad_rle(masks)
    if bad is not None:
        row, message = bad
        raise InputError(f"{path}: entry {row} (image {entries[row]['image_id']}): {message}")
    return masks


def _mask_size(path: str, row: int, entry: dict[str, Any]) -> tuple[int, int]:
    segmentation = entry.get("segmentation")
    size = segmentation.get("size") if isinstance(segmentation, dict) else None
    if not isinstance(size, list) or len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise InputError(
            f"{path}: entry {row} has no RLE segmentation with its size, which a contextual corrector needs"
        )
    return size[0], size[1]
