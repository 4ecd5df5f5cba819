"""Checked ground truth and results, and their figures. Results stream through their match rows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from hotcoco import StreamingEval
from numpy.typing import NDArray

from raylabel.dataset.fields import places_by_name
from raylabel.errors import InputError
from raylabel.evaluation.checked_input import CheckedAnnotations, IouType, checked_annotations
from raylabel.evaluation.match_rows import Figures, Protocol, figures, match_rows, merge_rows
from raylabel.files.json_files import read_json
from raylabel.predictions.results_by_image import ImageRows, RowGroup, RowsByImage, read_images
from raylabel.predictions.results_columns import Wanted, iter_columns
from raylabel.predictions.results_file import check_entries
from raylabel.predictions.results_parts import Results
from raylabel.processes import map_on_processes

_Truth = tuple[list[dict[str, Any]], list[dict[str, Any]]]
"""Some images and their annotations, in hotcoco's form."""


@dataclass(frozen=True, kw_only=True)
class CheckedResults:
    """Checked ground truth and detections.

    Attributes:
        truth: ground truth, with numbers as ids of images and categories.
        protocol: how detections are evaluated.
        results: the results, which were checked.
        names: names of annotations and results, for messages.
        parts: match rows of each part of the images, without empty parts.
        num_images_without_detection: number of images that no detection names.
    """

    truth: CheckedAnnotations
    protocol: Protocol
    results: Results
    names: tuple[str, str]
    parts: tuple[StreamingEval, ...]
    num_images_without_detection: int

    @property
    def dataset(self) -> dict[str, Any]:
        """Images, annotations and categories in hotcoco's form."""
        return self.truth.dataset

    @property
    def iou_type(self) -> IouType:
        """What is compared: "segm" or "bbox"."""
        return self.protocol.iou_type

    @property
    def is_federated(self) -> bool:
        """Whether LVIS's protocol applies."""
        return self.protocol.is_federated

    @property
    def num_images(self) -> int:
        """Number of all images."""
        return len(self.dataset["images"])

    @cached_property
    def detections(self) -> list[dict[str, Any]]:
        """All detections in hotcoco's form, in the order of the results: far more memory than the match rows."""
        wanted = _wanted(self.truth, self.protocol, self.names[1])
        with TemporaryDirectory() as folder:
            rows = RowsByImage(folder, list(self.truth.image_numbers))
            for batch in iter_columns(self.results, wanted):
                rows.add(batch)
            found = [
                (int(entry), one)
                for group in rows.groups()
                for image in read_images(group, wanted)
                for entry, one in zip(image.entries, _detections(image), strict=True)
            ]
        return [one for _, one in sorted(found, key=lambda entry: entry[0])]

    def figures(self) -> Figures:
        """Compute the figures that `evaluate_results` returns."""
        return figures(self.protocol, self.parts)


def check_results(
    annotations: str | Path | dict[str, Any],
    results: str | Path | list[dict[str, Any]],
    *,
    iou_type: IouType = "segm",
    frequency_groups: Mapping[int, str] | None = None,
    num_parts: int = 1,
    seed: int = 0,
) -> CheckedResults:
    """Read, check and match results. The other arguments and the errors are those of `evaluate_results`.

    Args:
        num_parts: number of parts that the images are dealt out to at random. There are never more parts than images.
        seed: seed of the parts.
    """
    if iou_type not in ("segm", "bbox"):
        raise InputError(f"iou_type must be segm or bbox, got {iou_type!r}")
    annotations = str(annotations) if isinstance(annotations, Path) else annotations
    results = str(results) if isinstance(results, Path) else results
    where = annotations if isinstance(annotations, str) else "annotations"
    results_where = results if isinstance(results, str) else "results"
    content = read_json(annotations) if isinstance(annotations, str) else annotations
    truth = checked_annotations(content, iou_type, frequency_groups, where)
    if not isinstance(results, str):
        check_entries(results, results_where)
    protocol = protocol_of(truth, iou_type, frequency_groups)
    part_of = deal_out(len(truth.image_numbers), num_parts, seed=seed)
    try:
        parts, num_seen = _match(truth, protocol, results, results_where, part_of)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{where} with {results_where}: {' '.join(str(error).split())}") from error
    return CheckedResults(
        truth=truth,
        protocol=protocol,
        results=results,
        names=(where, results_where),
        parts=parts,
        num_images_without_detection=len(part_of) - num_seen,
    )


def protocol_of(truth: CheckedAnnotations, iou_type: IouType, groups: Mapping[int, str] | None) -> Protocol:
    """Return how detections of these images are evaluated. `groups` are those of `evaluate_results`."""
    numbers = truth.category_numbers
    return Protocol(
        categories=truth.dataset["categories"],
        iou_type=iou_type,
        is_federated=truth.is_federated,
        frequency_groups=groups and {numbers[one]: group for one, group in groups.items() if one in numbers},
    )


def deal_out(num_images: int, num_parts: int, *, seed: int) -> NDArray[np.int64]:
    """Return the part of each image, (num_images,). The parts are about equally large."""
    part_of = np.zeros(num_images, dtype=np.int64)
    parts = np.array_split(np.random.default_rng(seed).permutation(num_images), max(1, min(num_parts, num_images)))
    for number, part in enumerate(parts):
        part_of[part] = number
    return part_of


def _match(
    truth: CheckedAnnotations, protocol: Protocol, results: Results, where: str, part_of: NDArray[np.int64]
) -> tuple[tuple[StreamingEval, ...], int]:
    """Return the match rows of each part, and the number of images with a detection."""
    wanted, num_seen, ignores_boxes = _wanted(truth, protocol, where), 0, False
    rows_of_part: dict[int, list[bytes]] = {}
    with TemporaryDirectory() as folder:
        rows = RowsByImage(folder, list(truth.image_numbers))
        for batch in iter_columns(results, wanted):
            if len(batch) and batch["entry"][0].as_py() == 0:
                # lvis-api does so: without a box in the first detection, masks tell the sizes of all.
                ignores_boxes = truth.is_federated and not batch["box_xywh"][0].is_valid
            rows.add(batch)
        work = partial(_match_group, protocol, replace(wanted, with_boxes=not ignores_boxes))
        for _, (found, num_with_detection) in map_on_processes(work, _groups_with_truth(rows, truth, part_of)):
            num_seen += num_with_detection
            for part, content in found.items():
                rows_of_part.setdefault(part, []).append(content)
    return tuple(merge_rows(rows_of_part[part]) for part in sorted(rows_of_part)), num_seen


def _groups_with_truth(
    rows: RowsByImage, truth: CheckedAnnotations, part_of: NDArray[np.int64]
) -> Iterator[tuple[RowGroup, dict[int, _Truth]]]:
    """Yield the groups of images, also those without a detection, with the truth of each part of their images."""
    annotations: dict[int, list[dict[str, Any]]] = {}
    for one in truth.dataset["annotations"]:
        annotations.setdefault(one["image_id"], []).append(one)
    images = truth.dataset["images"]
    for group in rows.groups(with_empty=True):
        of_parts: dict[int, _Truth] = {}
        for place in range(group.first_image, group.first_image + len(group.names)):
            some_images, some_annotations = of_parts.setdefault(int(part_of[place]), ([], []))
            some_images.append(images[place])
            some_annotations += annotations.get(images[place]["id"], [])
        yield group, of_parts


def _match_group(
    protocol: Protocol, wanted: Wanted, group: tuple[RowGroup, dict[int, _Truth]]
) -> tuple[dict[int, bytes], int]:
    """Return the match rows of a group by part, and the number of images with a detection."""
    rows, of_parts = group
    detections = {one.image + 1: _detections(one) for one in read_images(rows, wanted)}
    found = {
        part: match_rows(
            protocol, images, annotations, [one for image in images for one in detections.get(image["id"], ())]
        )
        for part, (images, annotations) in of_parts.items()
    }
    return found, len(detections)


def _wanted(truth: CheckedAnnotations, protocol: Protocol, where: str) -> Wanted:
    return Wanted(
        where=where,
        places=places_by_name(
            list(truth.image_numbers), truth.file_names, [number - 1 for number in truth.image_numbers.values()]
        ),
        classes=truth.category_numbers,
        are_probabilities=False,
        with_masks=protocol.iou_type == "segm",
        sizes_hw={number - 1: size_hw for number, size_hw in truth.sizes_hw.items()},
        with_boxes=True,
        must_have_box=protocol.iou_type == "bbox",
    )


def _detections(rows: ImageRows) -> list[dict[str, Any]]:
    """Return the detections of an image in hotcoco's form."""
    masks = [{"segmentation": mask} for mask in rows.masks] or [{}] * len(rows.entries)
    boxes = rows.boxes_xywh or [None] * len(rows.entries)
    return [
        {"image_id": rows.image + 1, "category_id": category, "score": score}
        | mask
        | ({} if box is None else {"bbox": box})
        for category, score, mask, box in zip(
            rows.class_indices.tolist(), rows.scores.tolist(), masks, boxes, strict=True
        )
    ]
