"""Detections from the COCO or LVIS results file of any detector. No image and no model is needed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raylabel.calibration.detections import Detections, ImagePredictions
from raylabel.calibration.match_set import match_batches
from raylabel.calibration.verification import weigh_by_verification
from raylabel.dataset.annotations import AnnotatedSet
from raylabel.dataset.fields import places_by_name
from raylabel.errors import InputError
from raylabel.predictions.context import CONTEXT_FEATURES, MODEL_FEATURES, image_context, soft_vector_features
from raylabel.predictions.instances import Instances
from raylabel.predictions.results_by_image import ImageRows, RowGroup, RowsByImage, read_images
from raylabel.predictions.results_columns import Wanted, iter_columns
from raylabel.predictions.results_parts import Results
from raylabel.processes import map_on_processes


def read_detections(predictions: str, annotated: AnnotatedSet, *, iou_threshold: float = 0.5) -> Detections:
    """Read a results file and match it. The detections keep the order of the file.

    `image_indices` index `annotated.images`.

    Args:
        predictions: COCO/LVIS results, path or URI: JSON, JSON lines or Parquet (`results_parts`). Its entries may have
            the fields MODEL_FEATURES, in [0, 1].
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
    return match_results(predictions, annotated, where=predictions, iou_threshold=iou_threshold).detections


@dataclass(frozen=True, kw_only=True)
class MatchedResults:
    """Matched entries of a results file.

    Attributes:
        detections: see `read_detections`.
        has_polygons: whether an entry has polygons.
    """

    detections: Detections
    has_polygons: bool


def match_results(
    results: Results, annotated: AnnotatedSet, *, where: str, iou_threshold: float = 0.5, with_context: bool = True
) -> MatchedResults:
    """Match the entries of a results file, see `read_detections`.

    Rows pass through a temporary folder on disk, and are matched image by image on processes. Memory holds the columns
    of `Detections` only.

    Args:
        results: path or URI of the file, or its entries.
        annotated: the truth of the same images.
        where: name of the results, for messages.
        iou_threshold: smallest mask IoU of a correct detection, in [0, 1].
        with_context: whether to compute the context.
    """
    image_ids = annotated.images.ids()
    wanted = Wanted(
        where=where,
        places=places_by_name(image_ids, annotated.images.file_names()),
        classes=annotated.class_index_of,
        sizes_hw=_sizes_hw(annotated),
        with_features=with_context,
    )
    with TemporaryDirectory() as folder:
        read = _rows_by_image(results, wanted, folder, image_ids)
        if not read.num_entries:
            raise InputError(f"{where}: results hold no detection")
        match = partial(_match_group, wanted, iou_threshold, with_context)
        groups = (
            (group, annotated.subset(range(group.first_image, group.first_image + len(group.names))))
            for group in read.rows.groups()
        )
        found = _Scattered(annotated.num_classes, read.num_entries)
        for _, (entries, part) in map_on_processes(match, groups):
            found.put(entries, part)
    return MatchedResults(
        detections=weigh_by_verification(found.detections(), annotated), has_polygons=read.has_polygons
    )


def _match_group(
    wanted: Wanted, iou_threshold: float, with_context: bool, group: tuple[RowGroup, AnnotatedSet]
) -> tuple[NDArray[np.int64], Detections]:
    """Match the images of a group; return the places of the entries, and their detections."""
    rows, annotated = group
    images = list(read_images(rows, wanted))
    parts = match_batches(
        annotated,
        {
            one.image - rows.first_image: ImagePredictions(
                one.class_indices, one.scores, one.masks, _context(one, wanted)
            )
            for one in images
        },
        class_weights=np.ones(annotated.num_classes),  # `weigh_by_verification` gives the weights
        iou_threshold=iou_threshold,
        with_context=with_context,
        num_threads=1,
    )
    found = Detections.concat(list(parts))
    found = replace(found, image_indices=found.image_indices + rows.first_image)
    return np.concatenate([one.entries for one in images]), found


@dataclass(frozen=True, kw_only=True)
class UnmatchedResults:
    """Entries of a results file without truth.

    Attributes:
        detections: detections in the order of the file.
        part_lengths: number of entries of each part that was read at once, see `results_writing.write_scores`.
    """

    detections: Detections
    part_lengths: list[int]


def unmatched_results(
    where: str,
    results: Results,
    class_index_of: Mapping[Any, int],
    *,
    with_context: bool = True,
    annotated: AnnotatedSet | None = None,
    refused: tuple[str, str] | None = None,
    needed_features: Sequence[str] = (),
) -> UnmatchedResults:
    """Build detections without truth from the entries of a results file, in the order of the file.

    Args:
        where: name of the results, for messages.
        results: path or URI of the file, or its entries.
        class_index_of: category id -> class index.
        with_context: whether to read the masks and compute the context.
        annotated: a set with the images, for their sizes. Without it, every mask must be an RLE, whose size is that of
            its image.
        refused: see `Wanted`.
        needed_features: names of MODEL_FEATURES that the entries must have.

    Raises:
        InputError: an entry is malformed, or its category is unknown.
    """
    image_ids = None if annotated is None else annotated.images.ids()
    wanted = Wanted(
        where=where,
        places=None
        if annotated is None or image_ids is None or not with_context
        else places_by_name(image_ids, annotated.images.file_names()),
        classes=class_index_of,
        with_masks=with_context,
        sizes_hw={} if annotated is None else _sizes_hw(annotated),
        remedy=". Give the images' annotation file with --annotations",
        with_features=with_context,
        refused=refused,
    )
    num_classes = len(class_index_of)
    if not with_context:
        parts = [
            Detections.of_scores(rows["class_index"].to_numpy(), rows["score"].to_numpy(), num_classes=num_classes)
            for rows in iter_columns(results, wanted)
        ]
        nothing = Detections.of_scores([], [], num_classes=num_classes)
        return UnmatchedResults(detections=Detections.concat([nothing, *parts]), part_lengths=list(map(len, parts)))
    with TemporaryDirectory() as folder:
        read = _rows_by_image(results, wanted, folder, image_ids, needed_features=needed_features)
        found = _Scattered(num_classes, read.num_entries)
        for _, (entries, part) in map_on_processes(partial(_see_group, wanted, num_classes), read.rows.groups()):
            found.put(entries, part)
    return UnmatchedResults(detections=found.detections(), part_lengths=read.part_lengths)


def _see_group(wanted: Wanted, num_classes: int, group: RowGroup) -> tuple[NDArray[np.int64], Detections]:
    """Build the detections of the images of a group, with their context."""
    images = list(read_images(group, wanted))
    parts = [
        Detections.of_scores(one.class_indices, one.scores, num_classes=num_classes, context=_context(one, wanted))
        for one in images
    ]
    return np.concatenate([one.entries for one in images]), Detections.concat(parts)


def _context(rows: ImageRows, wanted: Wanted) -> NDArray[np.float32] | None:
    """Compute the context of an image, with the features that are fields of the entries."""
    if not wanted.with_features:
        return None
    context = image_context(rows.class_indices, rows.scores, rows.masks)
    for name, values in rows.features.items():
        context[:, CONTEXT_FEATURES.index(name)] = values
    return context


class _Scattered:
    """Detections that come in any order, put at the places of their entries."""

    def __init__(self, num_classes: int, num_entries: int) -> None:
        self._num_classes, self._num_entries = num_classes, num_entries
        self._columns = dict[str, NDArray[Any]]()

    def put(self, entries: NDArray[np.int64], part: Detections) -> None:
        for one in fields(part):
            values = getattr(part, one.name)
            if isinstance(values, np.ndarray):
                if one.name not in self._columns:
                    self._columns[one.name] = np.empty((self._num_entries, *values.shape[1:]), values.dtype)
                self._columns[one.name][entries] = values

    def detections(self) -> Detections:
        nothing = Detections.of_scores([], [], num_classes=self._num_classes)
        columns: dict[str, Any] = self._columns
        return replace(nothing, **columns)


@dataclass(frozen=True, kw_only=True)
class _ReadRows:
    rows: RowsByImage
    part_lengths: list[int]
    has_polygons: bool

    @property
    def num_entries(self) -> int:
        return sum(self.part_lengths)


def _rows_by_image(
    results: Results,
    wanted: Wanted,
    folder: str,
    image_ids: Sequence[int | str] | None,
    *,
    needed_features: Sequence[str] = (),
) -> _ReadRows:
    by_image, features = RowsByImage(folder, image_ids), _FeaturesInAllOrNone(wanted.where)
    part_lengths, has_polygons = list[int](), False
    for rows in iter_columns(results, wanted):
        if not any(part_lengths):
            _require_features(rows, needed_features, wanted.where)
        if wanted.with_features:
            features.see(rows, sum(part_lengths))
        by_image.add(rows)
        part_lengths.append(len(rows))
        has_polygons = has_polygons or bool(pc.any(rows["is_polygons"]).as_py())
    return _ReadRows(rows=by_image, part_lengths=part_lengths, has_polygons=has_polygons)


def _require_features(rows: pa.RecordBatch, names: Sequence[str], where: str) -> None:
    missing = [name for name in names if len(rows) and not rows[name][0].is_valid]
    if missing:
        raise InputError(
            f"{where}: the corrector looks at {', '.join(missing)}, which entry 0 lacks. Write them with "
            "raylabel.calibration.results_entries, or fit a corrector to a results file without them."
        )


class _FeaturesInAllOrNone:
    """Checks that each of the fields MODEL_FEATURES is in all entries or in none."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._first_with, self._first_without = dict[str, int](), dict[str, int]()

    def see(self, rows: pa.RecordBatch, num_before: int) -> None:
        for name in MODEL_FEATURES:
            num_null = rows[name].null_count
            if num_null == len(rows):
                self._first_without.setdefault(name, num_before)
            elif num_null == 0:
                self._first_with.setdefault(name, num_before)
            else:
                has = rows[name].is_valid().to_numpy(zero_copy_only=False)
                self._first_with.setdefault(name, num_before + int(has.argmax()))
                self._first_without.setdefault(name, num_before + int((~has).argmax()))
            if name in self._first_with and name in self._first_without:
                raise InputError(
                    f"{self._where}: entry {self._first_without[name]} has no {name}, "
                    f"but entry {self._first_with[name]} has one"
                )


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
