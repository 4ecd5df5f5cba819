"""Detections from the COCO or LVIS results file of any detector. No image and no model is needed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylabel.calibration.detections import Detections, ImagePredictions
from raylabel.calibration.match_set import match_set
from raylabel.dataset.annotations import AnnotatedSet
from raylabel.errors import InputError, shown
from raylabel.masks.rle import Rle
from raylabel.masks.segmentation import rle_from_segmentation
from raylabel.predictions.context import CONTEXT_FEATURES, MODEL_FEATURES, image_context, soft_vector_features
from raylabel.predictions.instances import Instances
from raylabel.predictions.results_file import (
    Entries,
    entry_images,
    entry_masks,
    entry_places,
    entry_scores,
    read_entries,
)


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
    return matched_detections(predictions, read_entries(predictions), annotated, iou_threshold=iou_threshold)


def matched_detections(
    predictions: str, entries: list[dict[str, Any]], annotated: AnnotatedSet, *, iou_threshold: float = 0.5
) -> Detections:
    """Match the entries of a results file, see `read_detections`. `predictions` is its path, for messages."""
    if not entries:
        raise InputError(f"{predictions}: results hold no detection")
    row_of = {image_id: row for row, image_id in enumerate(annotated.images.ids())}
    rows = entry_places(entries, "image_id", row_of, predictions)
    classes = _classes(entries, annotated.class_index_of, predictions)
    scores = entry_scores(entries, predictions, are_probabilities=True)
    masks = _masks(entries, rows, _sizes_hw(annotated), predictions)
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
    path: str,
    entries: list[dict[str, Any]],
    class_index_of: Mapping[Any, int],
    *,
    with_context: bool = True,
    annotated: AnnotatedSet | None = None,
) -> Detections:
    """Build detections without truth from the entries of a results file, in the order of the file.

    Args:
        path: path of the file, for messages.
        entries: output of `read_entries`.
        class_index_of: category id -> class index.
        with_context: whether to read the masks and compute the context.
        annotated: a set with the images, for their sizes. Without it, every mask must be an RLE, whose size is that of
            its image.

    Raises:
        InputError: an entry is malformed, or its category is unknown.
    """
    classes = _classes(entries, class_index_of, path)
    scores = entry_scores(entries, path, are_probabilities=True)
    if not with_context:
        return Detections.of_scores(classes, scores, num_classes=len(class_index_of))
    images: Sequence[Any]
    if annotated is None:
        images, sizes_hw = entry_images(entries, path), dict[Any, tuple[int, int]]()
    else:
        row_of = {image_id: row for row, image_id in enumerate(annotated.images.ids())}
        images, sizes_hw = entry_places(entries, "image_id", row_of, path), _sizes_hw(annotated)
    masks = _masks(entries, images, sizes_hw, path, remedy=". Give the images' annotation file with --annotations")
    context = np.zeros((len(entries), len(CONTEXT_FEATURES)), np.float32)
    for chosen in _by_image(images).values():
        context[chosen] = image_context(classes[chosen], scores[chosen], [masks[row] for row in chosen])
    context = _with_model_features(path, entries, context)
    return Detections.of_scores(classes, scores, num_classes=len(class_index_of), context=context)


def _classes(entries: Entries, class_index_of: Mapping[Any, int], path: str) -> NDArray[np.int32]:
    return np.array(entry_places(entries, "category_id", class_index_of, path), dtype=np.int32)


def _masks(
    entries: Entries, images: Sequence[Any], sizes_hw: Mapping[Any, tuple[int, int]], path: str, *, remedy: str = ""
) -> list[Rle]:
    """Return the masks of all entries as compressed RLE."""
    checked = entry_masks(entries, images, sizes_hw, path, remedy=remedy)
    return [
        rle_from_segmentation(one, sizes_hw.get(image, (0, 0)), check=False)
        for image, one in zip(images, checked, strict=True)
    ]


def _sizes_hw(annotated: AnnotatedSet) -> dict[int, tuple[int, int]]:
    return {row: image.image_size_hw for row, image in enumerate(annotated.images)}


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


def _share(path: str, row: int, entry: Mapping[str, Any], name: str) -> float:
    """Return a field of an entry that must be a number in [0, 1]."""
    if name not in entry:
        raise InputError(f"{path}: entry {row} has no {name}")
    value = entry[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InputError(f"{path}: entry {row}: {name} must be a number in [0, 1], got {shown(value)}")
    return float(value)


def _by_image(image_of: Sequence[Any]) -> dict[Any, NDArray[np.int64]]:
    """Map each image to the positions of its entries, in order."""
    places: dict[Any, list[int]] = {}
    for place, image in enumerate(image_of):
        places.setdefault(image, []).append(place)
    return {image: np.array(of_image, dtype=np.int64) for image, of_image in places.items()}
