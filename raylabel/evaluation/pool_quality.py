"""Quality of stored pseudo-labels if the pool's truth is known: calibration, precision and recall.

Shards are read and matched in groups, on threads or on the cluster. Masks stay there: the caller gets columns.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raylabel.calibration import Detections, ImagePredictions, ReliabilityBins, match_image, weigh_by_verification
from raylabel.calibration.metrics.binned import ccece, ece, group_masks, nll
from raylabel.config import CalibrationConfig, SelectionConfig
from raylabel.dataset.annotations import AnnotatedSet
from raylabel.dataset.image_headers import NUM_TELLING, are_annotated_as_stored, is_turned_within_size
from raylabel.dataset.image_source import ImageSource
from raylabel.dataset.pool.truth import TruthMatch
from raylabel.predictions.selection import select
from raylabel.run.classes import load_classes
from raylabel.run.folder import RunFolder
from raylabel.run.labels.shards import STATUS_OK, committed_shards, labelled_images, read_fields, shard_groups
from raylabel.threads import READING_THREADS, Map, map_on_threads

_FIELDS = ("image_id", "uri", "height", "width", "status", "as_stored")


@dataclass(frozen=True, kw_only=True)
class ShardGroup:
    """Some committed shards.

    Attributes:
        uris: their files.
        rows: the truth's row of each image, in the order of the shards. -1: the image is not compared with a truth.
    """

    uris: tuple[str, ...]
    rows: NDArray[np.int64]


def match_labelled(
    run: RunFolder, match: TruthMatch, *, max_pixels: int, map_groups: Map = map_on_threads
) -> list[ShardGroup]:
    """Match the labelled images of a run with the pool's truth by their ids. Quarantined images count too.

    Images whose labels do not have the size or orientation of their truth are counted. They were labelled without this
    truth, or by an earlier version. Only of such images headers are read.

    Args:
        run: run with a labelled pool.
        match: the truth, which has seen no image yet.
        max_pixels: see `read_image`.
        map_groups: does the work on groups of shards.

    Returns:
        All committed shards, in order.

    Raises:
        InputError: no image has a truth, or none has labels of its truth's size.
        StorageError: the disk or the network failed.
    """
    groups, of_groups = shard_groups(list(committed_shards(run).values())), list[NDArray[np.int64]]()
    displayed = list[tuple[str, ...]]()
    for uris, images in zip(groups, map_groups(_read_images, groups), strict=True):
        rows = []
        for row in images.to_pylist():
            match.see(row["image_id"])
            is_labelled = row["status"] == STATUS_OK
            rows.append(match.see_labels(row["image_id"], (row["height"], row["width"])) if is_labelled else -1)
        of_groups.append(np.array(rows, dtype=np.int64))
        if images["uri"].null_count < len(images):
            displayed.append(uris)
    match.refuse_none()
    _find_turned(match, displayed, max_pixels=max_pixels, map_groups=map_groups)
    turned = match.turned_rows
    return [
        ShardGroup(uris=uris, rows=np.where(np.isin(rows, turned), -1, rows))
        for uris, rows in zip(groups, of_groups, strict=True)
    ]


def _read_images(uris: Sequence[str]) -> pa.Table:
    """Read what `match_labelled` needs of each image. Only images that were labelled as displayed have a `uri`."""
    tables = list(map_on_threads(partial(read_fields, fields=_FIELDS), uris, num_threads=READING_THREADS))
    images = pa.concat_tables([one.replace_schema_metadata(None) for one in tables], promote_options="default")
    displayed = pc.equal(images["status"], STATUS_OK)
    if "as_stored" in images.column_names:  # earlier versions did not know it
        displayed = pc.and_(displayed, pc.is_null(images["as_stored"]))
    uri = pc.if_else(displayed, images["uri"], pa.scalar(None, pa.string()))
    return images.select(["image_id", "height", "width", "status"]).append_column("uri", uri)


def _find_turned(match: TruthMatch, groups: Sequence[tuple[str, ...]], *, max_pixels: int, map_groups: Map) -> None:
    """Count images that were labelled as displayed, because their truth was not known, and are annotated as stored."""

    def displayed() -> Iterator[tuple[str, ImageSource]]:
        for images in map_groups(_read_images, groups):
            for row in images.filter(pc.is_valid(images["uri"])).to_pylist():
                if row["image_id"] in match.row_of:
                    yield row["image_id"], ImageSource(row["uri"], match.size_of(row["image_id"]))

    telling = [source for _, source in islice(displayed(), NUM_TELLING)]
    if not telling or not are_annotated_as_stored(telling, max_pixels=max_pixels):
        return
    look = partial(is_turned_within_size, max_pixels=max_pixels)
    remaining = displayed()
    while part := dict(islice(remaining, NUM_TELLING)):
        found = map_on_threads(look, list(part.values()), num_threads=READING_THREADS)
        for image_id, is_turned in zip(part, found, strict=True):
            if is_turned:
                match.see_turned(image_id)


@dataclass(frozen=True, kw_only=True)
class _Matched:
    """The predictions of some shards, of the images that are compared with a truth.

    Attributes:
        detections: all predictions; `image_indices` are rows of the truth.
        calibrated_scores: (N,) calibrated scores.
        is_kept: (N,) whether the selection keeps the prediction.
        num_objects: number of true objects, without crowd regions.
    """

    detections: Detections
    calibrated_scores: NDArray[np.float64]
    is_kept: NDArray[np.bool_]
    num_objects: int


def _match_shards(
    group: ShardGroup,
    *,
    open_truth: Callable[[], AnnotatedSet],
    iou_threshold: float,
    selection: SelectionConfig,
    frequency_groups: NDArray[np.str_],
) -> _Matched:
    truth, num_objects = open_truth(), 0
    parts, calibrated, kept = [Detections.empty(truth.num_classes)], [np.zeros(0)], [np.zeros(0, bool)]
    unweighed = np.ones(truth.num_classes)  # because weights depend on all images
    images = (image for uri in group.uris for image in labelled_images(uri, truth.num_classes))
    for row, image in zip(group.rows.tolist(), images, strict=True):
        if row < 0:
            continue
        found = image.instances
        predictions = ImagePredictions(found.class_indices, found.raw_scores, found.masks)
        detections = match_image(
            truth, row, predictions, class_weights=unweighed, iou_threshold=iou_threshold, with_context=False
        )
        parts.append(detections)
        calibrated.append(image.calibrated_scores.astype(np.float64))
        chosen = select(
            calibrated_scores=image.calibrated_scores,
            class_indices=found.class_indices,
            mask_quality=found.mask_quality,
            mask_areas=found.mask_areas,
            config=selection,
            frequency_groups=frequency_groups,
        )
        kept.append(chosen.keep)
        num_objects += int((~truth.object_is_crowd(row)).sum())
    return _Matched(
        detections=Detections.concat(parts),
        calibrated_scores=np.concatenate(calibrated),
        is_kept=np.concatenate(kept),
        num_objects=num_objects,
    )


def measure_pool(
    run: RunFolder,
    match: TruthMatch | None,
    *,
    calibration: CalibrationConfig,
    selection: SelectionConfig,
    max_pixels: int,
    open_truth: Callable[[], AnnotatedSet] | None = None,
    map_groups: Map = map_on_threads,
) -> dict[str, Any] | None:
    """Compare stored labels with the pool's truth.

    Args:
        run: run with a labelled pool.
        match: the truth, which has seen no image yet. None if the truth is not known.
        calibration: bins and IoU.
        selection: which predictions are pseudo-labels.
        max_pixels: see `read_image`.
        open_truth: opens the truth in another process. None: no other process needs it.
        map_groups: does the work on groups of shards.

    Returns:
        Counts, also of images without a partner on either side, and of images that are left out because their labels
        and their truth differ in size or orientation. ECE, NLL and CCECE (all classes, and per frequency
        group) of raw and calibrated scores. Precision and recall of the selected pseudo-labels at
        `calibration.iou_threshold`. None if the truth is not known.

    Raises:
        InputError: no image of the pool has a truth.
    """
    if match is None:
        return None
    groups = match_labelled(run, match, max_pixels=max_pixels, map_groups=map_groups)
    misses = {
        "num_without_truth": match.num_without_truth,
        "num_truth_not_in_pool": match.num_not_in_pool,
        "num_other_size": match.num_other_size,
        "num_other_orientation": match.num_other_orientation,
    }
    classes, truth = load_classes(run), match.truth
    work = partial(
        _match_shards,
        open_truth=open_truth or (lambda: truth),
        iou_threshold=calibration.iou_threshold,
        selection=selection,
        frequency_groups=classes.frequency_groups,
    )
    parts = list(map_groups(work, groups))
    labelled_rows = np.concatenate([np.zeros(0, np.int64), *(one.rows[one.rows >= 0] for one in groups)])
    # Only labelled images, because the others of a federated truth say nothing about this pool.
    places = np.zeros(len(truth), dtype=np.int64)
    places[labelled_rows] = np.arange(len(labelled_rows))
    detections = Detections.concat([Detections.empty(classes.num_classes), *(one.detections for one in parts)])
    detections = replace(detections, image_indices=places[detections.image_indices])
    detections = weigh_by_verification(detections, truth.subset(labelled_rows))
    is_scored, num_objects = detections.is_scored, sum(one.num_objects for one in parts)
    scored = detections.scored()
    scores = np.concatenate([np.zeros(0), *(one.calibrated_scores for one in parts)])[is_scored]
    is_kept = np.concatenate([np.zeros(0, bool), *(one.is_kept for one in parts)])[is_scored]
    if not len(scored):
        return {"num_images": len(labelled_rows), **misses, "num_instances": 0}
    num_correct = int((scored.is_correct & is_kept).sum())
    return {
        "num_images": len(labelled_rows),
        **misses,
        "num_instances": len(scored),
        "num_objects": num_objects,
        "raw": _calibration_figures(scored, scored.raw_scores, calibration.num_bins, classes.frequency_groups),
        "calibrated": _calibration_figures(scored, scores, calibration.num_bins, classes.frequency_groups),
        "selected": {
            "num": int(is_kept.sum()),
            "precision": num_correct / max(1, int(is_kept.sum())),
            "recall": num_correct / max(1, num_objects),
        },
    }


def _calibration_figures(
    detections: Detections, scores: NDArray[np.float64], num_bins: int, frequency_groups: NDArray[np.str_]
) -> dict[str, Any]:
    bins = ReliabilityBins.from_detections(detections, num_bins, scores=scores)
    by_group = {
        name: ccece(of_group) if (of_group := bins.of_classes(mask)).num.sum() > 0 else None
        for name, mask in group_masks(frequency_groups).items()
    }
    return {
        "ece": ece(bins),
        "nll": nll(scores, detections.is_correct, detections.weights),
        "ccece": ccece(bins),
        "ccece_by_group": by_group,
    }
