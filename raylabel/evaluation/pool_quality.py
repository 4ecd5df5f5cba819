"""Quality of stored pseudo-labels if the pool's truth is known: calibration, precision and recall."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylabel.calibration import Detections, ImagePredictions, ReliabilityBins, match_image, weigh_by_verification
from raylabel.calibration.metrics.binned import ccece, ece, group_masks, nll
from raylabel.config import CalibrationConfig, SelectionConfig
from raylabel.dataset.image_headers import NUM_TELLING, are_annotated_as_stored, is_turned_within_size
from raylabel.dataset.image_source import ImageSource
from raylabel.dataset.pool.truth import TruthMatch
from raylabel.predictions.matching import verification_weights
from raylabel.predictions.selection import select
from raylabel.run.classes import load_classes
from raylabel.run.folder import RunFolder
from raylabel.run.labels.shards import STATUS_OK, committed_shards, labelled_images, read_fields
from raylabel.threads import READING_THREADS, map_on_threads


def match_labelled(run: RunFolder, match: TruthMatch, *, max_pixels: int) -> None:
    """Match the labelled images of a run with the pool's truth by their ids. Quarantined images count too.

    Images whose labels do not have the size or orientation of their truth are counted. They were labelled without this
    truth, or by an earlier version. Only of such images headers are read.

    Args:
        run: run with a labelled pool.
        match: the truth, which has seen no image yet.
        max_pixels: see `read_image`.

    Raises:
        InputError: no image has a truth, or none has labels of its truth's size.
        StorageError: the disk or the network failed.
    """
    for uri in committed_shards(run).values():
        for row in read_fields(uri, ["image_id", "height", "width", "status"]).to_pylist():
            match.see(row["image_id"])
            if row["status"] == STATUS_OK:
                match.see_labels(row["image_id"], (row["height"], row["width"]))
    match.refuse_none()
    telling = [source for _, source in islice(_displayed(run, match), NUM_TELLING)]
    if not telling or not are_annotated_as_stored(telling, max_pixels=max_pixels):
        return
    look = partial(is_turned_within_size, max_pixels=max_pixels)
    displayed = _displayed(run, match)
    while part := dict(islice(displayed, NUM_TELLING)):
        found = map_on_threads(look, list(part.values()), num_threads=READING_THREADS)
        for image_id, is_turned in zip(part, found, strict=True):
            if is_turned:
                match.see_turned(image_id)


def _displayed(run: RunFolder, match: TruthMatch) -> Iterator[tuple[str, ImageSource]]:
    """Yield the images with a truth that were labelled as displayed, because their truth was not known.

    The id of each, and the image in the size of its truth.
    """
    for uri in committed_shards(run).values():
        for row in read_fields(uri, ["image_id", "uri", "as_stored", "status"]).to_pylist():
            if row["status"] == STATUS_OK and row.get("as_stored") is None and row["image_id"] in match.row_of:
                yield row["image_id"], ImageSource(row["uri"], match.size_of(row["image_id"]))


def measure_pool(
    run: RunFolder,
    match: TruthMatch | None,
    *,
    calibration: CalibrationConfig,
    selection: SelectionConfig,
    max_pixels: int,
) -> dict[str, Any] | None:
    """Compare stored labels with the pool's truth.

    Args:
        run: run with a labelled pool.
        match: the truth, which has seen no image yet. None if the truth is not known.
        calibration: bins and IoU.
        selection: which predictions are pseudo-labels.
        max_pixels: see `read_image`.

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
    match_labelled(run, match, max_pixels=max_pixels)
    truth, row_of = match.truth, match.row_of
    misses = {
        "num_without_truth": match.num_without_truth,
        "num_truth_not_in_pool": match.num_not_in_pool,
        "num_other_size": match.num_other_size,
        "num_other_orientation": match.num_other_orientation,
    }
    classes = load_classes(run)
    class_weights = verification_weights(truth)
    parts, calibrated, kept = [Detections.empty(classes.num_classes)], [np.zeros(0)], [np.zeros(0, bool)]
    labelled_rows, num_objects = list[int](), 0
    shards = committed_shards(run).values()
    for image in chain.from_iterable(labelled_images(uri, classes.num_classes) for uri in shards):
        if image.status != STATUS_OK or image.image_id not in row_of:
            continue
        if not match.is_comparable(image.image_id, image.instances.image_size_hw):
            continue
        row, found = row_of[image.image_id], image.instances
        parts.append(
            match_image(
                truth,
                row,
                ImagePredictions(found.class_indices, found.raw_scores, found.masks),
                class_weights=class_weights,
                iou_threshold=calibration.iou_threshold,
                with_context=False,
            )
        )
        calibrated.append(image.calibrated_scores.astype(np.float64))
        chosen = select(
            calibrated_scores=image.calibrated_scores,
            class_indices=found.class_indices,
            mask_quality=found.mask_quality,
            mask_areas=found.mask_areas,
            config=selection,
            frequency_groups=classes.frequency_groups,
        )
        kept.append(chosen.keep)
        labelled_rows.append(row)
        num_objects += int((~truth.ground_truth(row).is_crowd).sum())
    # Only labelled images, because the others of a federated truth say nothing about this pool.
    places = np.zeros(len(truth), dtype=np.int64)
    places[labelled_rows] = np.arange(len(labelled_rows))
    detections = Detections.concat(parts)
    detections = replace(detections, image_indices=places[detections.image_indices])
    detections = weigh_by_verification(detections, truth.subset(labelled_rows))
    is_scored = detections.is_scored
    scored, scores, is_kept = (
        detections.scored(),
        np.concatenate(calibrated)[is_scored],
        np.concatenate(kept)[is_scored],
    )
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
